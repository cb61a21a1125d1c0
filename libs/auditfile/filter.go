package auditfile

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
)

// MaxValue bounds each text of a Query, in bytes.
const MaxValue = 1024

// Query is a filter as the parameters of a request have it. A parameter that is "" asks for everything.
type Query struct {
	Category  string // one or several, with commas between them
	Action    string // likewise
	PackID    string // the entry's owner_pack
	Actor     string
	Success   string // true or false
	Since     string // RFC 3339, a day, or how long ago (8h, 90m, 7d)
	Until     string // likewise
	RequestID string
	TraceID   string
	Q         string // a text anywhere in the entry but in ts, request_id and trace_id; upper and lower case of ASCII alike
}

// Filter says which entries are asked for. Its zero value asks for all.
type Filter struct {
	Categories []audit.Category // any of these; none for all
	Actions    []string         // any of these; none for all
	PackID     string
	Actor      string
	Success    *bool
	Since      time.Time // included; zero for no bound
	Until      time.Time // excluded; zero for no bound
	RequestID  string
	TraceID    string

	Text []byte // within a piece of Entry.Searchable: in lower case, escaped as JSON strings are; nil for any
}

// Filter reads the parameters. It fails with a fault that names the wrong one.
func (q Query) Filter() (f Filter, err error) {
	if err := q.checkLengths(); err != nil {
		return f, err
	}
	f = Filter{Actions: list(q.Action), PackID: q.PackID, Actor: q.Actor, RequestID: q.RequestID, TraceID: q.TraceID, Text: fold(q.Q)}
	for _, name := range list(q.Category) {
		category, ok := audit.ParseCategory(name)
		if !ok {
			return f, fault.InvalidField("category", "one of "+categoryNames())
		}
		f.Categories = append(f.Categories, category)
	}
	switch q.Success {
	case "":
	case "true", "false":
		f.Success = new(q.Success == "true")
	default:
		return f, fault.InvalidField("success", "true or false")
	}
	if f.Since, err = instant("since", q.Since); err == nil {
		f.Until, err = instant("until", q.Until)
	}
	if err == nil && !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		err = fault.InvalidField("until", "a time after since")
	}
	return f, err
}

func (q Query) checkLengths() error {
	for name, value := range map[string]string{
		"category": q.Category, "action": q.Action, "pack_id": q.PackID, "actor": q.Actor, "since": q.Since, "until": q.Until,
		"request_id": q.RequestID, "trace_id": q.TraceID, "q": q.Q,
	} {
		if len(value) > MaxValue {
			return fault.TooLong(name, MaxValue)
		}
	}
	return nil
}

func list(text string) (values []string) {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func categoryNames() string {
	var names []string
	for _, c := range audit.Categories() {
		names = append(names, c.String())
	}
	return strings.Join(names, ", ")
}

// instant reads a time, a day as its first instant, or how long ago it was.
func instant(name, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if day, ok := ParseDay(value); ok {
		return day.Start(), nil
	}
	if ago, ok := parseAgo(value); ok {
		return time.Now().UTC().Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		return t, fault.InvalidField(name, "a time such as 2027-01-01T00:00:00Z, a day such as 2027-01-01, or how long ago: 8h, 90m, 7d")
	}
	return t.UTC(), nil
}

// parseAgo reads 8h, 90m, 1h30m, 7d; a minus sign before it means the same.
func parseAgo(value string) (ago time.Duration, ok bool) {
	value = strings.TrimPrefix(value, "-")
	if days, ok := strings.CutSuffix(value, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 15)
		return time.Duration(n) * 24 * time.Hour, err == nil
	}
	ago, err := time.ParseDuration(value)
	return ago, err == nil && ago >= 0
}

// fold is a text as Match looks for it in a line.
func fold(text string) []byte {
	if text == "" {
		return nil
	}
	quoted, err := jsontext.AppendQuote(nil, strings.ToValidUTF8(text, "\uFFFD"))
	if err != nil {
		return []byte(text) // can't be: the text is valid UTF-8
	}
	return AppendFolded(nil, quoted[1:len(quoted)-1])
}

// AppendFolded appends text in the form in which Filter.Text is looked for: with the capital letters of ASCII as small ones. Other letters stay as they are: their small form may be longer.
func AppendFolded(dst, text []byte) []byte {
	begin := len(dst)
	dst = append(dst, text...)
	for i, c := range dst[begin:] {
		if 'A' <= c && c <= 'Z' {
			dst[begin+i] = c + 'a' - 'A'
		}
	}
	return dst
}

// Match says whether the filter asks for the entry.
func (f *Filter) Match(e *Entry) bool {
	return f.matchCategory(e.Category) && (len(f.Actions) == 0 || slices.Contains(f.Actions, e.Action)) &&
		wants(f.PackID, e.OwnerPack) && wants(f.Actor, e.Actor) && wants(f.RequestID, e.RequestID) && wants(f.TraceID, e.TraceID) &&
		(f.Success == nil || *f.Success == e.Success) && f.matchTime(e.TS) && f.matchText(e)
}

// wants says whether a value is the one that is asked for; "" asks for any.
func wants(asked, value string) bool { return asked == "" || asked == value }

func (f *Filter) matchTime(at time.Time) bool {
	return (f.Since.IsZero() || !at.Before(f.Since)) && (f.Until.IsZero() || at.Before(f.Until))
}

// Excludes says whether a line can't be of an entry that the filter asks for. It costs a tenth of Parse and Match, and is for readers that look at
// thousands of lines for one. It never excludes an entry that matches.
func (f *Filter) Excludes(line []byte) bool {
	if len(f.Text) > 0 && !f.textIn(line) {
		return true
	}
	if bytes.IndexByte(line, '\\') >= 0 {
		return false // values may be written with escapes; without any, a value stands there as it is
	}
	for _, value := range [...]string{f.PackID, f.Actor, f.RequestID, f.TraceID} {
		if value != "" && !bytes.Contains(line, []byte(value)) {
			return true
		}
	}
	return false
}

func (f *Filter) matchCategory(name string) bool {
	return len(f.Categories) == 0 || slices.ContainsFunc(f.Categories, func(c audit.Category) bool { return c.String() == name })
}

func (f *Filter) matchText(e *Entry) bool {
	if len(f.Text) == 0 {
		return true
	}
	for piece := range e.Searchable() {
		if f.textIn(piece) {
			return true
		}
	}
	return false
}

// textIn folds a piece of a line, part by part, into a buffer on the stack: a stream with a text looks at every line of the log.
func (f *Filter) textIn(piece []byte) bool {
	var buffer [4096]byte
	step := len(buffer) - MaxValue*2
	if len(f.Text) > MaxValue*2 { // control characters take six bytes each when they are escaped
		return bytes.Contains(AppendFolded(nil, piece), f.Text)
	}
	for begin := 0; begin < len(piece); begin += step {
		if bytes.Contains(AppendFolded(buffer[:0], piece[begin:min(len(piece), begin+len(buffer))]), f.Text) {
			return true
		}
	}
	return false
}

// Wants says whether entries of a category can match: a reader needn't open the files of the others.
func (f *Filter) Wants(c audit.Category) bool {
	return len(f.Categories) == 0 || slices.Contains(f.Categories, c)
}
