package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"testing"
)

// reference is how encoding/json writes an entry.
func reference(l line) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(l)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

func compare(t *testing.T, l line) {
	t.Helper()
	want, wantErr := reference(l)
	got, err := l.append([]byte("kept"))
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("error is %v, of the library %v", err, wantErr)
	}
	if err == nil && string(got) != "kept"+string(want) {
		t.Errorf("entry is\n%s\nwant\n%s", got[4:], want)
	}
}

func TestEntriesAreEncodedAsTheLibraryDoes(t *testing.T) {
	type named string
	cycle := map[string]any{}
	cycle["self"] = cycle
	for name, value := range map[string]any{
		"nil": nil, "text": "a \"b\" \\ <b>&amp; \x00\x1f\x7f\b\f\n\r\t é 日本 \u2028\u2029 \xff\xc3 😀", "bool": true,
		"ints":   []any{0, -1, math.MaxInt, int64(math.MinInt64), int8(3), uint64(math.MaxUint64)},
		"floats": []any{0.0, math.Copysign(0, -1), 1.5, 1e-6, 9.99e-7, 1e-10, 1e20, 1e21, 1e100, 5e-324, math.MaxFloat64, -2.5, 1e-7, float32(1.1)},
		"NaN":    math.NaN(), "infinite": math.Inf(-1), "texts": []string{"a", "", "\n"}, "no texts": []string(nil), "none": []string{},
		"nil map": map[string]any(nil), "empty": map[string]any{}, "nested": map[string]any{"b": 1, "a": map[string]any{"z": "z", "": nil}, "\xff": 2, "é": 3},
		"struct": struct {
			A string `json:"a"`
			B []byte `json:"b,omitempty"`
		}{A: "<x>"}, "named": named("x"), "number": json.Number("1e5"), "raw": json.RawMessage(`{"a": 1}`), "function": func() {}, "cycle": cycle,
	} {
		t.Run(name, func(t *testing.T) {
			compare(t, line{Category: "security", Severity: "info", Action: "x", Actor: "system", Service: "s", Details: map[string]any{"v": value, "w": 1}})
		})
	}
}

func TestAttrsAreDetailsInTheirOrder(t *testing.T) {
	attrs := []slog.Attr{slog.String("z", "\"\xff"), slog.Bool("b", true), slog.Int("i", -7), slog.Float64("f", 1.25), slog.Any("list", []string{"x"}), slog.Any("nil", nil)}
	const wrote = `"z":"\"\ufffd","b":true,"i":-7,"f":1.25,"list":["x"],"nil":null}`
	for name, c := range map[string]struct {
		details map[string]any
		want    string
	}{
		"alone":       {map[string]any{}, `"details":{` + wrote},
		"after a map": {map[string]any{"a": 1}, `"details":{"a":1,` + wrote},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&line{Action: "x", Details: c.details, attrs: attrs}).append(nil)
			if err != nil || !json.Valid(got) || !strings.Contains(string(got), c.want) {
				t.Errorf("the entry is %s, %v; want %s in it", got, err, c.want)
			}
		})
	}
}

func TestAttrsThatAreTooLongAreCut(t *testing.T) {
	l := line{Action: "x", attrs: []slog.Attr{slog.String("long", strings.Repeat("x", 2*maxLine)), slog.Int("n", 7)}}
	raw, err := l.encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Details map[string]any }
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	long, _ := got.Details["long"].(string)
	if len(raw) > maxBody || got.Details["truncated"] != true || got.Details["n"] != 7.0 || !strings.HasPrefix(long, "xxxx") || len(long) > 5<<10 {
		t.Errorf("the entry has %d bytes: %.300s; want it cut short and marked as truncated", len(raw), raw)
	}
	if len(noDetails) != 0 {
		t.Errorf("what stands for no details has become %v", noDetails)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("network", "weather", "why", "pack:weather", []byte("details of all kinds"))
	f.Add("\u2028\xff", "", "\x00", "日本", []byte{})
	f.Fuzz(func(t *testing.T, action, pack, reason, actor string, raw []byte) {
		details, _ := value(&raw, 0).(map[string]any)
		compare(t, line{Category: "security", Severity: "warning", Action: action, Success: len(raw)%2 == 0, OwnerPack: pack, Phase: pack, Details: details,
			Error: reason, RejectionReason: actor, RequestID: pack, TraceID: action, Actor: actor, Service: reason})
	})
}

// value makes something that details may hold out of bytes.
func value(raw *[]byte, depth int) any {
	take := func(n int) []byte {
		n = min(n, len(*raw))
		taken := (*raw)[:n]
		*raw = (*raw)[n:]
		return taken
	}
	text := func() string { return string(take(len(*raw) % 17)) }
	number := func() (n uint64) {
		var whole [8]byte
		copy(whole[:], take(8))
		return binary.LittleEndian.Uint64(whole[:])
	}
	kind := byte(0)
	if one := take(1); len(one) == 1 {
		kind = one[0] % 9
	}
	if depth == 0 {
		kind = 0
	}
	switch kind {
	case 0:
		m := map[string]any{}
		for len(*raw) > 0 && depth < 2*maxDepth && len(m) < 20 {
			m[text()] = value(raw, depth+1)
		}
		return m
	case 1:
		return text()
	case 2:
		return math.Float64frombits(number())
	case 3:
		return int(number())
	case 4:
		return int64(number())
	case 5:
		return []string{text(), text()}
	case 6:
		return float32(int32(number())) / 1000
	case 7:
		return []any{text(), number(), nil}
	default:
		return number()%2 == 0
	}
}

// The tags of line are what append writes by hand: a field that only one of them has would be lost.
func TestEveryFieldIsWritten(t *testing.T) {
	l := line{Details: map[string]any{}}
	v := reflect.ValueOf(&l).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString(v.Type().Field(i).Name)
		}
	}
	compare(t, l)
}
