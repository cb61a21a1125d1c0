package auditfile_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

func aCursor() auditfile.Cursor {
	c := auditfile.Cursor{Kind: auditfile.Forward, Day: theDay}
	for _, category := range audit.Categories() {
		c.Positions = append(c.Positions, auditfile.Position{ID: auditfile.ID{Category: category, Day: theDay}, Offset: 1 << 40, Check: 1 << 15},
			auditfile.Position{ID: auditfile.ID{Category: category, Day: theDay - 1}, Offset: 300 << 20})
	}
	return c
}

func TestCursorComesBack(t *testing.T) {
	for _, c := range []auditfile.Cursor{{Kind: auditfile.Forward}, {Kind: auditfile.Back, Day: theDay}, aCursor()} {
		text := c.String()
		got, err := auditfile.ParseCursor(text, c.Kind)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s is read as %+v, %v, want %+v", text, got, err, c)
		}
		if len(text) > 256 {
			t.Errorf("a cursor takes %d bytes, want at most 256: each event has one", len(text))
		}
	}
	c := aCursor()
	if got := c.Position(c.Positions[3].ID); got != c.Positions[3] {
		t.Errorf("the position is %+v, want %+v", got, c.Positions[3])
	}
	if got, want := c.Position(theID), c.Positions[10]; got != want {
		t.Errorf("the position is %+v, want %+v", got, want)
	}
	begin := auditfile.ID{Category: audit.System, Day: 1}
	if got := c.Position(begin); got != (auditfile.Position{ID: begin}) {
		t.Errorf("the position in a file that wasn't begun is %+v, want its beginning", got)
	}
}

func TestCheckTellsFilesApart(t *testing.T) {
	of := func(text string, offset int64) uint16 {
		t.Helper()
		check, err := auditfile.Check(strings.NewReader(text), offset)
		if err != nil {
			t.Fatal(err)
		}
		return check
	}
	if of(whole, 100) != of(whole+whole, 300) {
		t.Error("the check changes when the file grows")
	}
	if of(whole, 100) == of(strings.Replace(whole, "000001Z", "000002Z", 1), 100) {
		t.Error("a file with another first line has the same check")
	}
	if _, err := auditfile.Check(strings.NewReader("short"), 6); err == nil {
		t.Error("a file that is too short has a check")
	}
}

func TestParseCursorRefuses(t *testing.T) {
	good := aCursor().String()
	twice := auditfile.Cursor{Kind: auditfile.Forward, Day: theDay, Positions: []auditfile.Position{{ID: theID, Offset: 1}, {ID: theID, Offset: 2}}}
	for name, text := range map[string]string{
		"empty": "", "garbage": "garbage", "cut": good[:len(good)-4], "changed": "B" + good[1:], "padded": good + "=", "not of its kind": auditfile.Cursor{Kind: auditfile.Back}.String(),
		"a file twice": twice.String(), "a category that isn't": auditfile.Cursor{Kind: auditfile.Forward, Positions: []auditfile.Position{{}}}.String(),
		"long": strings.Repeat("A", auditfile.MaxCursor+1), "a day after 9999": auditfile.Cursor{Kind: auditfile.Forward, Day: 2932897}.String(),
	} {
		if c, err := auditfile.ParseCursor(text, auditfile.Forward); !errors.Is(err, auditfile.ErrCursor) {
			t.Errorf("%s: read as %+v, %v, want ErrCursor", name, c, err)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add(aCursor().String())
	f.Add(auditfile.Cursor{Kind: auditfile.Forward}.String())
	f.Add("AWYA")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := auditfile.ParseCursor(text, auditfile.Forward)
		if err != nil {
			return
		}
		if again, err := auditfile.ParseCursor(c.String(), auditfile.Forward); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%q is read as %+v, and its text as %+v, %v", text, c, again, err)
		}
		if len(c.Positions) > auditfile.MaxPositions {
			t.Errorf("%d positions, want at most %d", len(c.Positions), auditfile.MaxPositions)
		}
	})
}
