package testenv

import (
	"fmt"
	"strings"
	"testing"
)

// fake notes how a test would have ended.
type fake struct {
	testing.TB
	skipped, failed string
}

func (f *fake) Helper()                           {}
func (f *fake) Skip(args ...any)                  { f.skipped = fmt.Sprint(args...) }
func (f *fake) Fatalf(format string, args ...any) { f.failed = fmt.Sprintf(format, args...) }

func TestWhatIsMissing(t *testing.T) {
	t.Setenv(RequireVariable, "")
	t.Setenv(DatabaseVariable, "")
	t.Setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
	for name, c := range map[string]struct {
		need func(testing.TB)
		want string
	}{
		"program":  {func(t testing.TB) { NeedsProgram(t, "sh", "no-such-program") }, "the program no-such-program"},
		"file":     {func(t testing.TB) { NeedsFile(t, "/no/such/file", "make tools") }, "run `make tools`"},
		"database": {func(t testing.TB) { Database(t) }, "deploy/test/with-postgres"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{TB: t}
			c.need(f)
			if !strings.Contains(f.skipped, c.want) || f.failed != "" {
				t.Errorf("skipped with %q, failed with %q; want a skip that names %q", f.skipped, f.failed, c.want)
			}
			t.Setenv(RequireVariable, "1")
			f = &fake{TB: t}
			c.need(f)
			if !strings.Contains(f.failed, c.want) || f.skipped != "" {
				t.Errorf("required: skipped with %q, failed with %q; want a failure that names %q", f.skipped, f.failed, c.want)
			}
		})
	}
	if err := ask("/_ping"); err == nil {
		t.Error("an engine answered on a socket that is not there, want an error")
	}
}
