package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// A message is a CRI message inside a record, kept as protobuf JSON so that a
// record can be read with cat. It is immutable.
type message[M proto.Message] struct {
	msg M
	raw json.RawMessage // msg as JSON; made once, since a record is written often
}

// newMessage takes a private copy of msg.
func newMessage[M proto.Message](msg M) (message[M], error) {
	raw, err := protojson.Marshal(msg)
	if err != nil {
		return message[M]{}, fmt.Errorf("encode %T: %w: %w", msg, ErrInvalid, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return message[M]{}, fmt.Errorf("encode %T: %w", msg, err)
	}
	return message[M]{msg: proto.CloneOf(msg), raw: compact.Bytes()}, nil
}

// MarshalJSON implements json.Marshaler.
func (m message[M]) MarshalJSON() ([]byte, error) {
	if m.raw == nil {
		return []byte("null"), nil
	}
	return m.raw, nil
}

// UnmarshalJSON implements json.Unmarshaler. A field that a newer release wrote
// is passed over, so that a downgrade can read what it finds.
func (m *message[M]) UnmarshalJSON(data []byte) error {
	var zero M
	msg, ok := zero.ProtoReflect().New().Interface().(M)
	if !ok {
		return fmt.Errorf("decode %T: not that message", zero)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, msg); err != nil {
		return fmt.Errorf("decode %T: %w", zero, err)
	}
	m.msg, m.raw = msg, append(json.RawMessage(nil), data...)
	return nil
}
