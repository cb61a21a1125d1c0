package uds

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadFrame(t *testing.T) {
	const limit = 1 << 20
	prefix := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	large := strings.Repeat("x", limit)
	tests := []struct {
		name, in, want string
		err            error
	}{
		{name: "nothing", err: io.EOF},
		{name: "half a prefix", in: "\x00\x00", err: io.ErrUnexpectedEOF},
		{name: "prefix alone", in: prefix(5), err: io.ErrUnexpectedEOF},
		{name: "half a payload", in: prefix(5) + "ab", err: io.ErrUnexpectedEOF},
		{name: "one byte", in: prefix(1) + "a", want: "a"},
		{name: "more behind it", in: prefix(2) + "abc", want: "ab"},
		{name: "longest", in: prefix(limit) + large, want: large},
		{name: "length 0", in: prefix(0) + "a", err: ErrEmpty},
		{name: "one over", in: prefix(limit+1) + large + "x", err: &TooLargeError{Length: limit + 1, Max: limit}},
		{name: "2^31", in: prefix(1 << 31), err: &TooLargeError{Length: 1 << 31, Max: limit}},
		{name: "2^32-1", in: prefix(math.MaxUint32), err: &TooLargeError{Length: math.MaxUint32, Max: limit}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadFrame(iotest.HalfReader(strings.NewReader(tt.in)), limit)
			var want *TooLargeError
			if errors.As(tt.err, &want) {
				var have *TooLargeError
				if !errors.As(err, &have) || *have != *want {
					t.Fatalf("error %v, want %v", err, tt.err)
				}
			} else if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if string(got) != tt.want {
				t.Errorf("got %d bytes, want %d", len(got), len(tt.want))
			}
		})
	}
}

// A prefix is a claim: 1 MiB that never comes must not cost 1 MiB.
func TestReadFrameAllocatesWhatArrives(t *testing.T) {
	in := binary.BigEndian.AppendUint32(nil, 1<<20)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ReadFrame(bytes.NewReader(in), 1<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if got > 64<<10 {
		t.Errorf("a claim alone costs %d bytes", got)
	}
}

func TestAppendFrameKeepsWhatWasThere(t *testing.T) {
	got, err := AppendFrame([]byte("ab"), strings.NewReader("\x00\x00\x00\x02cd"), 8)
	if err != nil || string(got) != "abcd" {
		t.Errorf("got %q, %v, want %q", got, err, "abcd")
	}
	got, err = AppendFrame([]byte("ab"), strings.NewReader("\x00\x00\x00\x02c"), 8)
	if err == nil || string(got) != "ab" {
		t.Errorf("after an error got %q, %v, want %q", got, err, "ab")
	}
}

func TestWriteFrame(t *testing.T) {
	var w bytes.Buffer
	if err := WriteFrame(&w, []byte("hello")); err != nil || w.String() != "\x00\x00\x00\x05hello" {
		t.Errorf("wrote %q, %v, want %q", w.String(), err, "\x00\x00\x00\x05hello")
	}
	if err := WriteFrame(&w, nil); err == nil {
		t.Error("an empty frame was written")
	}
	if err := WriteFrame(iotest.TruncateWriter(&w, 0), []byte("x")); err != nil {
		t.Errorf("truncating writer: %v", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, limit uint16) {
		r := bytes.NewReader(in)
		got, err := ReadFrame(r, int(limit))
		if err != nil {
			if got != nil {
				t.Fatalf("an error and %d bytes", len(got))
			}
			return
		}
		if len(got) == 0 || len(got) > int(limit) {
			t.Fatalf("%d bytes with a limit of %d", len(got), limit)
		}
		var back bytes.Buffer
		if err := WriteFrame(&back, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(back.Bytes(), in[:len(in)-r.Len()]) {
			t.Fatal("written again it differs")
		}
	})
}
