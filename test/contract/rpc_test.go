package contract

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// services are the two of the CRI as their descriptors say.
func services() protoreflect.ServiceDescriptors {
	return runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
}

// methods are all RPCs by name. No two of the CRI's have the same.
func methods() map[string]protoreflect.MethodDescriptor {
	out := map[string]protoreflect.MethodDescriptor{}
	for i := range services().Len() {
		s := services().Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			out[string(m.Name())] = m
		}
	}
	return out
}

// path is the RPC's on the wire.
func path(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// message makes an empty one.
func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// invoke calls any RPC and gives all that it answers. A stream is read to its
// end.
func invoke(t *testing.T, ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, req proto.Message) ([]proto.Message, error) {
	t.Helper()
	if !m.IsStreamingServer() {
		resp := message(t, m.Output())
		err := conn.Invoke(ctx, path(m), req, resp)
		return []proto.Message{resp}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path(m))
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(req); err != nil {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var all []proto.Message
	for {
		resp := message(t, m.Output())
		err := stream.RecvMsg(resp)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, resp)
	}
}

// A wire speaks gRPC without grpc-go's client, which sends nothing once a
// deadline has passed.
type wire struct{ http.Client }

func newWire(socket string) *wire {
	return &wire{http.Client{Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (w *wire) close() { w.CloseIdleConnections() }

// late sends a request whose time is over when it arrives, and gives the code of
// the answer. A stream that the server resets counts as DeadlineExceeded.
func (w *wire) late(ctx context.Context, m protoreflect.MethodDescriptor, req proto.Message) (codes.Code, error) {
	body, err := proto.Marshal(req)
	if err != nil {
		return codes.Unknown, err
	}
	frame := append([]byte{0}, binary.BigEndian.AppendUint32(nil, uint32(len(body)))...)
	r := (&http.Request{
		Method: http.MethodPost, URL: &url.URL{Scheme: "http", Host: "localhost", Path: path(m)},
		Header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Grpc-Timeout": {"1n"}},
		Body:   io.NopCloser(bytes.NewReader(append(frame, body...))),
	}).WithContext(ctx)
	resp, err := w.Do(r)
	if reset := (http2.StreamError{}); errors.As(err, &reset) {
		return codes.DeadlineExceeded, nil
	}
	if err != nil {
		return codes.Unknown, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		if reset := (http2.StreamError{}); errors.As(err, &reset) {
			return codes.DeadlineExceeded, nil
		}
		return codes.Unknown, err
	}
	text := resp.Trailer.Get("Grpc-Status")
	if text == "" { // an answer without a body has them among the headers
		text = resp.Header.Get("Grpc-Status")
	}
	n, err := strconv.Atoi(text)
	return codes.Code(n), err
}

// text is what a person reads of an error.
func text(err error) string { return status.Convert(err).Message() }
