package auditindex

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

var testID = auditfile.ID{Category: audit.Network, Day: 20700}

// home is a log and its index.
type home struct {
	t            *testing.T
	audit, index string
	dir          *auditfile.Dir
	out          bytes.Buffer
	x            *Index
}

func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{t: t, audit: t.TempDir(), index: filepath.Join(t.TempDir(), "index")}
	var err error
	if h.dir, err = auditfile.OpenDir(h.audit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.dir.Close() })
	h.open()
	return h
}

func (h *home) open() {
	h.x = Open(h.index, h.dir, Sizes{Min: 4 << 10, Max: 32 << 10}, slog.New(slog.NewTextHandler(&h.out, nil)))
	h.t.Cleanup(h.x.lock.Close)
}

// write appends entries from to to-1. Each tenth is of the pack rare.
func (h *home) write(from, to int) {
	h.t.Helper()
	var lines strings.Builder
	for n := from; n < to; n++ {
		pack := "common"
		if n%10 == 0 {
			pack = "rare"
		}
		fmt.Fprintf(&lines, `{"ts":%q,"category":"network","action":"network_request","success":true,"owner_pack":%q,"details":{"n":%d},"request_id":"R%d","actor":"pack:%s"}`+"\n",
			testID.Day.Start().Add(time.Duration(n)*time.Second).Format("2006-01-02T15:04:05.000000Z"), pack, n, n, pack)
	}
	f, err := os.OpenFile(filepath.Join(h.audit, testID.Name()), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(lines.String()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) update() {
	h.t.Helper()
	if err := h.x.Update(context.Background()); err != nil {
		h.t.Fatal(err)
	}
}

// covered is how many bytes the segments in use are about.
func (h *home) covered() (n int64) {
	h.t.Helper()
	f, err := h.dir.Open(testID)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	segments, err := h.x.Cover(f)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, s := range segments {
		n += s.To() - s.From()
	}
	return n
}

func (h *home) wantWhole(when string) {
	h.t.Helper()
	info, err := os.Stat(filepath.Join(h.audit, testID.Name()))
	if err != nil {
		h.t.Fatal(err)
	}
	if got := h.covered(); got != info.Size() {
		h.t.Errorf("%s: the index covers %d bytes, want all %d", when, got, info.Size())
	}
}

// proposed are the numbers of the entries that the index proposes for a filter.
func (h *home) proposed(q auditfile.Query) (numbers []int) {
	h.t.Helper()
	filter, err := q.Filter()
	if err != nil {
		h.t.Fatal(err)
	}
	f, err := h.dir.Open(testID)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	segments, err := h.x.Cover(f)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, s := range slices.Backward(segments) {
		c, err := h.x.Candidates(s, &filter, nil, s.To())
		if err != nil {
			h.t.Fatal(err)
		}
		if c == nil {
			continue
		}
		for {
			begin, end, more, err := c.Previous()
			if err != nil {
				h.t.Fatal(err)
			}
			if !more {
				break
			}
			line := make([]byte, end-begin)
			if _, err := f.ReadAt(line, begin); err != nil {
				h.t.Fatal(err)
			}
			n := -1
			if at := bytes.Index(line, []byte(`"n":`)); at >= 0 {
				_, _ = fmt.Sscanf(string(line[at:]), `"n":%d`, &n)
			}
			numbers = append(numbers, n)
		}
		c.Close()
	}
	return numbers
}

func TestIndexNarrows(t *testing.T) {
	h := newHome(t)
	h.write(0, 2000)
	h.update()
	h.wantWhole("after an update")
	for _, c := range []struct {
		query auditfile.Query
		most  int
		has   int
	}{
		{auditfile.Query{RequestID: "R1234"}, 1, 1234},
		{auditfile.Query{PackID: "rare"}, 200, 1230},
		{auditfile.Query{PackID: "nobody"}, 0, -1},
		{auditfile.Query{PackID: "rare", Success: "false"}, 0, -1},
		{auditfile.Query{Q: `nowhere at all`}, 0, -1},
		{auditfile.Query{Since: testID.Day.Start().Add(1900 * time.Second).Format(time.RFC3339)}, 100 + blockRows, 1950},
	} {
		got := h.proposed(c.query)
		if len(got) > c.most || c.has >= 0 && !slices.Contains(got, c.has) {
			t.Errorf("%+v: the index proposes %d entries (%.60v), want at most %d, with %d", c.query, len(got), fmt.Sprint(got), c.most, c.has)
		}
		if !slices.IsSortedFunc(got, func(a, b int) int { return b - a }) {
			t.Errorf("%+v: the entries are proposed in the order %.60v, want the last one first", c.query, fmt.Sprint(got))
		}
	}
}

// Segments of a file that grows are joined, so their number doesn't grow with it.
func TestSmallSegmentsAreJoined(t *testing.T) {
	h := newHome(t)
	for n := range 60 {
		h.write(n*12, n*12+12)
		h.update()
	}
	h.wantWhole("at the end")
	h.update() // which removes those that were joined
	files, err := filepath.Glob(filepath.Join(h.index, "*"+extension))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 30 {
		t.Errorf("60 writes left %d segments, want fewer than half as many", len(files))
	}
}

// Whatever happens to the folder or to the log, the next update makes an index that fits.
func TestIndexIsMadeAnew(t *testing.T) {
	for name, hurt := range map[string]func(h *home, segment string){
		"a segment is removed":        func(h *home, segment string) { h.check(os.Remove(segment)) },
		"a segment is cut":            func(h *home, segment string) { h.check(os.Truncate(segment, 1000)) },
		"a segment is empty":          func(h *home, segment string) { h.check(os.Truncate(segment, 0)) },
		"a segment is something else": func(h *home, segment string) { h.check(os.WriteFile(segment, bytes.Repeat([]byte("x"), 9000), 0o640)) },
		"the folder is removed":       func(h *home, _ string) { h.check(os.RemoveAll(h.index)) },
		"the log is another one": func(h *home, _ string) {
			h.check(os.Remove(filepath.Join(h.audit, testID.Name())))
			h.write(5000, 7000)
		},
		"the log was cut": func(h *home, _ string) { h.check(os.Truncate(filepath.Join(h.audit, testID.Name()), 50_000)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			h.write(0, 2000)
			h.update()
			h.x.lock.Close()
			files, _ := filepath.Glob(filepath.Join(h.index, "*"+extension))
			hurt(h, files[len(files)/2])
			h.open()
			h.update()
			h.update()
			if name != "the log was cut" { // it ends within a line
				h.wantWhole("after " + name)
			} else if got := h.covered(); got < 49_000 || got > 50_000 {
				t.Errorf("the index covers %d bytes, want the 50000 that are left, but for a line without an end", got)
			}
			if got := h.proposed(auditfile.Query{RequestID: "R5100"}); (len(got) == 1) != (name == "the log is another one") {
				t.Errorf("for R5100 the index proposes %v", got)
			}
		})
	}
}

func (h *home) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// A page that the disk has damaged is found when it is read.
func TestDamagedPage(t *testing.T) {
	h := newHome(t)
	h.write(0, 300)
	h.update()
	files, _ := filepath.Glob(filepath.Join(h.index, "*"+extension))
	data, err := os.ReadFile(files[0])
	h.check(err)
	data[100] ^= 1
	h.check(os.WriteFile(files[0], data, 0o640))
	f, err := h.dir.Open(testID)
	h.check(err)
	defer f.Close()
	segments, err := h.x.Cover(f)
	h.check(err)
	var filter auditfile.Filter
	c, err := h.x.Candidates(segments[0], &filter, nil, segments[0].To())
	if err == nil {
		_, _, _, err = c.Previous()
	}
	if err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v, want that the segment is damaged", err)
	}
	h.x.Reject(segments[0], err.Error())
	h.update()
	h.wantWhole("after the segment was made anew")
}

// A change in the middle of the log, of the same length, is found by the sum of all bytes.
func TestChangeInTheMiddleIsFound(t *testing.T) {
	h := newHome(t)
	h.write(0, 300)
	h.update()
	path := filepath.Join(h.audit, testID.Name())
	data, err := os.ReadFile(path)
	h.check(err)
	h.check(os.WriteFile(path, bytes.Replace(data, []byte(`"request_id":"R150"`), []byte(`"request_id":"X150"`), 1), 0o640))
	h.x.lock.Close()
	h.open()
	for range 12 {
		h.update()
	}
	if got := h.proposed(auditfile.Query{RequestID: "X150"}); len(got) != 1 {
		t.Errorf("the index proposes %v, want the entry that was changed", got)
	}
}

// Of several gateways one writes; the others see what it has made.
func TestTwoGateways(t *testing.T) {
	h := newHome(t)
	h.write(0, 500)
	h.update()
	first := h.x
	h.open()
	h.write(500, 1000)
	h.update()
	if h.x.writes || !first.writes {
		t.Errorf("the second one writes: %v, the first: %v; want the first alone", h.x.writes, first.writes)
	}
	h.check(first.Update(context.Background()))
	h.update()
	h.wantWhole("at the one that only reads")
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	h := newHome(t)
	h.write(0, 500)
	h.check(os.RemoveAll(h.index))
	h.check(os.WriteFile(h.index, nil, 0o640)) // a file in its place: also root can't write there
	h.open()
	if err := h.x.Update(context.Background()); err == nil {
		t.Error("an update into no folder succeeded")
	}
	if got := h.covered(); got != 0 || !h.x.Failing.Load() || !strings.Contains(h.out.String(), "can't be kept up to date") {
		t.Errorf("covered %d, failing %v, log %s; want nothing, true and a line that says so", got, h.x.Failing.Load(), &h.out)
	}
}

// FuzzSegment opens what may lie in the folder, with checksums that fit, and asks it: no content may make it panic, or take much memory.
func FuzzSegment(f *testing.F) {
	f.Add(goodSegment(f), uint16(0), byte(0))
	f.Add(goodSegment(f), uint16(3), byte(0xff))
	f.Add([]byte{}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, raw []byte, at uint16, with byte) {
		if len(raw) > 256<<10 {
			return
		}
		if raw = bytes.Clone(raw); int(at) < len(raw) {
			raw[len(raw)-1-int(at)] ^= with
		}
		mend(raw)
		from := bytes.NewReader(raw)
		m, err := decodeMeta(from, int64(len(raw)))
		if err != nil {
			return
		}
		s := &Segment{meta: *m}
		filter := auditfile.Filter{PackID: "rare", Text: []byte("network")}
		rows, err := s.rows(from, &filter, []string{"rare"})
		if err != nil {
			return
		}
		o := offsets{s: s, f: from}
		for it := rows.ReverseIterator(); it.HasNext(); {
			if begin, end, err := o.of(it.Next()); err == nil && (begin < s.From() || end > s.To()) {
				t.Fatalf("a row from %d to %d is proposed, in a range from %d to %d", begin, end, s.From(), s.To())
			}
		}
	})
}

// goodSegment is a segment as build makes it.
func goodSegment(f *testing.F) []byte {
	f.Helper()
	folder := f.TempDir()
	var lines strings.Builder
	for n := range 300 {
		fmt.Fprintf(&lines, `{"ts":%q,"category":"network","action":"a%d","success":true,"owner_pack":"rare","request_id":"R%d","actor":"x"}`+"\n",
			testID.Day.Start().Add(time.Duration(n)*time.Second).Format(time.RFC3339), n%7, n)
	}
	if err := os.WriteFile(filepath.Join(folder, testID.Name()), []byte(lines.String()), 0o640); err != nil {
		f.Fatal(err)
	}
	dir, err := auditfile.OpenDir(folder)
	if err != nil {
		f.Fatal(err)
	}
	defer dir.Close()
	file, err := dir.Open(testID)
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	_, data, err := build(context.Background(), file, 0, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	return data
}

// mend makes the checksums of a segment right, as far as its trailer makes sense, so that the fuzzer gets behind them.
func mend(raw []byte) {
	if len(raw) < trailerSize {
		return
	}
	end := raw[len(raw)-trailerSize:]
	size := int64(binary.LittleEndian.Uint32(end))
	begin := int64(len(raw)) - trailerSize - size
	if begin < 0 {
		return
	}
	pageSums := raw[:len(raw)-trailerSize]
	for n := pages(begin, pageSize); n > 0; n-- {
		at := int64(len(pageSums)) - 4*(pages(begin, pageSize)-n+1)
		if at < begin {
			break
		}
		binary.LittleEndian.PutUint32(raw[at:], crc32.Checksum(raw[(n-1)*pageSize:min(n*pageSize, begin)], castagnoli))
	}
	binary.LittleEndian.PutUint32(end[4:], crc32.Checksum(raw[begin:len(raw)-trailerSize], castagnoli))
}
