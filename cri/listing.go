package cri

import (
	"fmt"
	"slices"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Lists are asked for every second, and on a node at rest the answer is the same each time.
// So what a list says of an object is encoded once for each version of its record, and
// the whole answer once until something changes. What is handed out are bytes of ours that
// nobody changes; messages are made anew for each caller.

// A row is an object in a list, with the record that it was made from. It never changes.
type row[R any] struct {
	rec   *R
	id    string
	at    int64  // when the object was made
	field []byte // the item as a field of the list's answer
	err   error  // why it cannot be encoded
}

// itemsField is the number of the list of items in the answers of all lists (CRI, api.proto).
const itemsField = 1

func newRow[R any](rec *R, id string, at int64, item proto.Message) *row[R] {
	r := &row[R]{rec: rec, id: id, at: at}
	size := proto.Size(item)
	r.field = make([]byte, 0, protowire.SizeTag(itemsField)+protowire.SizeBytes(size))
	r.field = protowire.AppendTag(r.field, itemsField, protowire.BytesType)
	r.field = protowire.AppendVarint(r.field, uint64(size))
	if r.field, r.err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(r.field, item); r.err != nil {
		r.err = fmt.Errorf("item %s: %w", id, r.err)
	}
	return r
}

// withFields gives m, an empty message, fields that are encoded already. m looks empty in this process; who
// decodes it finds them. They must not be changed from now on.
func withFields[M proto.Message](m M, fields []byte) M {
	m.ProtoReflect().SetUnknown(fields)
	return m
}

// A listing is a list of objects, newest first, kept until one of them comes, goes or
// changes. It is safe for concurrent use.
type listing[R any] struct {
	changes func() uint64    // counts them
	look    func() []*row[R] // all that there is, in no order; the caller's to sort

	last atomic.Pointer[look[R]]
}

// A look is what there was. It never changes.
type look[R any] struct {
	changes uint64
	rows    []*row[R]
	fields  []byte // of all rows
	err     error  // of one that cannot be encoded
}

// now is the list as it is now.
func (l *listing[R]) now() *look[R] {
	changes := l.changes() // before the look: what it misses is counted after this
	if last := l.last.Load(); last != nil && last.changes == changes {
		return last
	}
	k := &look[R]{changes: changes, rows: l.look()}
	slices.SortFunc(k.rows, func(a, b *row[R]) int { return newestFirst(a.at, b.at, a.id, b.id) })
	k.fields, k.err = join(k.rows)
	l.last.Store(k)
	return k
}

// join is the encoded list of rows.
func join[R any](rows []*row[R]) ([]byte, error) {
	size := 0
	for _, r := range rows {
		if r.err != nil {
			return nil, r.err
		}
		size += len(r.field)
	}
	fields := make([]byte, 0, size)
	for _, r := range rows {
		fields = append(fields, r.field...)
	}
	return fields, nil
}

// fields is the encoded list of those that keep wants; nil is all. It must not be changed.
func (l *listing[R]) fields(keep func(*R) bool) ([]byte, error) {
	if keep == nil {
		k := l.now()
		return k.fields, k.err
	}
	return join(l.rows(keep))
}

// rows are those that keep wants; nil is all. They must not be changed.
func (l *listing[R]) rows(keep func(*R) bool) []*row[R] {
	all := l.now().rows
	if keep == nil {
		return all
	}
	rows := make([]*row[R], 0, len(all))
	for _, r := range all {
		if keep(r.rec) {
			rows = append(rows, r)
		}
	}
	return rows
}
