// Package testenv says what a test needs of the machine beside Go: a Docker engine, an image, a database, a program.
//
// On a machine that lacks it, the test is skipped, and the skip says what is missing and how to get it. So `go test work` is green
// in a bare clone. `make test` sets RequireVariable: then the test fails instead, so that CI never passes for want of what it should
// have tested.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// RequireVariable is set, to anything, where everything that tests need must be there.
	RequireVariable = "RUMI_TEST_REQUIRE_ALL"

	// DatabaseVariable names the PostgreSQL that tests may use, as a URL: a database in which they may make schemas.
	DatabaseVariable = "RUMI_TEST_DATABASE_URL"

	engineSocket = "/var/run/docker.sock"
	askTimeout   = 10 * time.Second // for one answer of the engine
)

// NeedsEngine skips t on a machine without a Docker engine that answers.
func NeedsEngine(t testing.TB) {
	t.Helper()
	if err := engine(); err != nil {
		lacks(t, "a Docker engine: %v", err)
	}
}

// NeedsImage skips t where the engine isn't there or lacks an image. command is what makes the image.
func NeedsImage(t testing.TB, image, command string) {
	t.Helper()
	NeedsEngine(t)
	if err := ask("/images/" + image + "/json"); err != nil {
		lacks(t, "the image %s (%v): run `%s`", image, err, command)
	}
}

// NeedsProgram skips t where one of the programs isn't in PATH.
func NeedsProgram(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			lacks(t, "the program %s", name)
		}
	}
}

// NeedsFile skips t where a file isn't there. command is what makes the file.
func NeedsFile(t testing.TB, path, command string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		lacks(t, "%s: run `%s`", path, command)
	}
}

// NeedsRoot skips t for an ordinary user. why says what only root can do.
func NeedsRoot(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacks(t, "root: %s", why)
	}
}

// Database is the URL of the PostgreSQL that tests may use; t is skipped where none is named.
func Database(t testing.TB) string {
	t.Helper()
	named := os.Getenv(DatabaseVariable)
	if named == "" {
		lacks(t, "a PostgreSQL: %s is not set. Run the tests by `deploy/test/with-postgres go test …`", DatabaseVariable)
	}
	return named
}

func lacks(t testing.TB, format string, args ...any) {
	t.Helper()
	what := "this test needs " + fmt.Sprintf(format, args...)
	if os.Getenv(RequireVariable) != "" {
		t.Fatalf("%s (%s is set)", what, RequireVariable)
		return // where t is a test's of this package
	}
	t.Skip(what)
}

// engine asks once in a process: hundreds of tests of a package would wait for the same answer.
var engine = sync.OnceValue(func() error { return ask("/_ping") })

// ask gets a path of the engine's API. It speaks plain HTTP on the socket, so that libs which tests of the client library itself
// use depend on nothing of it.
func ask(path string) error {
	socket := engineSocket
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		u, err := url.Parse(host)
		if err != nil || u.Scheme != "unix" {
			return fmt.Errorf("DOCKER_HOST=%s is no unix socket", host)
		}
		socket = u.Path
	}
	client := http.Client{
		Timeout: askTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
		},
	}
	response, err := client.Get("http://docker" + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}

// TempDir is t.TempDir for folders that hold read-only ones, such as copies of trees: their owner may not remove what is in them, unless
// the owner is root. They are made writable before the test's folder is removed.
func TempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				_ = os.Chmod(path, 0o700) // before its entries are read
			}
			return nil
		})
	})
	return dir
}
