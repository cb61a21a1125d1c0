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

// pages are the documents with commands for operators and authors. Their order matters: docs/handlers.md grants its handler to the pack of
// docs/packs.md.
var pages = []struct {
	name  string
	least int // the minimum of blocks that are run
}{
	{"README.md", 2}, {"docs/packs.md", 6}, {"docs/handlers.md", 5}, {"docs/operations.md", 12}, {"docs/local-models.md", 1}, {"docs/troubleshooting.md", 1}, {"docs/tokens.md", 4},
}

var (
	pageBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?")
	pageAsks  = regexp.MustCompile(`(?m)(^|\$\(|\| )api `)
)

// TestPages runs the blocks of commands ("sh") of every page as they are printed, each in a bash of its own, in the Rumi home. Blocks called
// "sh no-test" are not run: they need root, a network or another machine. If a block of text follows, its lines must be in the output.
func TestPages(t *testing.T) {
	for _, tool := range []string{"jq", "zip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is needed: the pages use it", tool)
		}
	}
	preamble := readDocument(t).preamble + "export COMPOSE_FILE=" + filepath.Join(suite.root, "docker-compose.yml") + "\n"
	plainPack(guidePack).copyToEcosystem(t, guidePack)
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
			t.Errorf("%s: %d blocks of commands were found, want %d at least", page.name, len(blocks), page.least)
		}
	}
	for _, id := range []string{"hello", "greet", guidePack} {
		if a, err := suite.api.Delete(t.Context(), "/api/packs/"+id); err != nil || a.Status != 200 {
			t.Errorf("the removal of %s got %v, %v; want 200", id, a, err)
		}
	}
}

// runBlock runs one block. The block and each call of the API in it must succeed, and its output must contain the lines of shown.
func runBlock(t *testing.T, page, preamble, block, shown string) {
	t.Helper()
	answers := t.TempDir()
	commands := strings.ReplaceAll(strings.ReplaceAll(block, "http://localhost:8765", suite.base), "api() {", "ask() {")
	out, err := suite.command(t.Context(), commandWait, "bash", "-c", "ANSWERS="+answers+"\n"+preamble+"\n"+commands)
	if err != nil {
		t.Errorf("%s:\n%s\nended with %v and printed\n%s\nwant status 0", page, block, err, out)
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
		t.Errorf("%s:\n%s\ncalls the API %d times, but only %d answers were recorded", page, block, asked, answered)
	}
}
