package journeys

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

// pages are the documents with commands for operators and authors, in an order in which each finds what it works on: the pack
// of docs/packs.md calls the handler of docs/handlers.md.
var pages = []struct {
	name  string
	least int // blocks that are run
}{
	{"README.md", 2}, {"docs/packs.md", 6}, {"docs/handlers.md", 5}, {"docs/operations.md", 12}, {"docs/local-models.md", 1}, {"docs/troubleshooting.md", 1},
}

var (
	pageBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?")
	pageAsks  = regexp.MustCompile(`(?m)(^|\$\(|\| )api `)
)

// TestPages runs the blocks of commands of every page as they are printed, each in a bash of its own, in the Rumi home. A block
// that begins with "sh no-test" is not run: it needs root, a network or another machine. What a block of text behind one shows must be
// in its output.
func TestPages(t *testing.T) {
	for _, tool := range []string{"jq", "zip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is needed: the pages use it", tool)
		}
	}
	preamble := readDocument(t).preamble + "export COMPOSE_FILE=" + filepath.Join(suite.root, "docker-compose.yml") + "\n"
	plainPack(guidePack).place(t, guidePack)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+guidePack+"/approve", nil)
	post(t, "/api/containers/"+guidePack+"/start", nil)
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(suite.root, page.name))
		if err != nil {
			t.Fatal(err)
		}
		blocks := pageBlock.FindAllStringSubmatch(string(text), -1)
		for _, block := range blocks {
			runBlock(t, page.name, preamble, block[1], block[2])
		}
		if len(blocks) < page.least {
			t.Errorf("%s: only %d blocks of commands were found, want %d", page.name, len(blocks), page.least)
		}
	}
	for _, id := range []string{"hello", "greet", guidePack} {
		if a, err := suite.api.Delete(t.Context(), "/api/packs/"+id); err != nil || a.Status != 200 {
			t.Errorf("the removal of %s got %v, %v; want 200", id, a, err)
		}
	}
}

// runBlock runs one block. It must succeed, and so must each call of the API in it; its output must have the lines of shown.
func runBlock(t *testing.T, page, preamble, block, shown string) {
	t.Helper()
	answers := t.TempDir()
	commands := strings.ReplaceAll(strings.ReplaceAll(block, "http://localhost:8765", suite.base), "api() {", "ask() {")
	out, err := suite.command(t.Context(), commandWait, "bash", "-c", "ANSWERS="+answers+"\n"+preamble+"\n"+commands)
	if err != nil {
		t.Errorf("%s:\n%s\nended with %v and printed\n%s", page, block, err, out)
	}
	for line := range strings.Lines(shown) {
		if !strings.Contains(out, strings.TrimSpace(line)) {
			t.Errorf("%s:\n%s\nprinted\n%s\nwant a line %s", page, block, out, line)
		}
	}
	kept, err := os.ReadFile(filepath.Join(answers, "all"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	answered := 0
	for line := range strings.Lines(string(kept)) {
		var answer struct {
			Success bool `json:"success"`
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		answered++
		if err := json.Unmarshal([]byte(line), &answer); err != nil || !answer.Success {
			t.Errorf("%s:\n%s\nanswered %s (%v), want success", page, block, line, err)
		}
	}
	if asked := len(pageAsks.FindAllString(block, -1)); answered < asked {
		t.Errorf("%s:\n%s\nasks the API %d times, and only %d answers came", page, block, asked, answered)
	}
}
