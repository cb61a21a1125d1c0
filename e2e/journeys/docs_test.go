package journeys

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

var (
	shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	jsonBlock  = regexp.MustCompile("(?ms)^```json\n(.*?)^```$")
	asks       = regexp.MustCompile(`(?m)(^|\$\()api `) // a call of the API, alone or in $(…)
)

// keepAnswers is a shell function api that calls ask, the documented function, and appends the answer to the file $ANSWERS/all. Each call
// has a file of its own first: two calls may run at once, in a pipeline.
const keepAnswers = `
api() {
    local answer
    answer=$(mktemp -p "$ANSWERS")
    ask "$@" > "$answer"
    { cat "$answer"; echo; } >> "$ANSWERS/all"
    cat "$answer"
}
`

// document is docs/api.md with the commands that run before each of its blocks: README's shell function for the API, and the page's own
// helpers.
type document struct {
	text     string
	preamble string
}

// readDocument reads docs/api.md and README.md.
func readDocument(t *testing.T) document {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(suite.root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	d := document{text: read("docs/api.md")}
	var function string
	for line := range strings.Lines(read("README.md")) {
		if strings.HasPrefix(line, "    api() {") {
			function = strings.ReplaceAll(line, "http://localhost:8765", suite.base)
		}
	}
	before, _, _ := strings.Cut(d.text, "\n## ")
	helpers := shellBlock.FindStringSubmatch(before)
	if function == "" || helpers == nil {
		t.Fatal("README.md lacks its function api, or docs/api.md the block of helpers before its first chapter")
	}
	d.preamble = "set -eu\ncd " + suite.home + "\n" +
		strings.Replace(function, "api()", "ask()", 1) + // keepAnswers calls it and keeps the answer, also if the block pipes it elsewhere
		keepAnswers + helpers[1]
	return d
}

// chapter returns the text of a chapter of docs/api.md.
func (d document) chapter(t *testing.T, subject string) string {
	t.Helper()
	_, part, found := strings.Cut(d.text, "\n## "+subject+"\n")
	if !found {
		t.Fatalf("docs/api.md has no chapter %q", subject)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	return part
}

// runChapter runs the blocks of commands of a chapter as they are printed, each in a shell of its own. Each call of the API must succeed. It
// returns the number of calls.
func (d document) runChapter(t *testing.T, subject string) (asked int) {
	t.Helper()
	for _, block := range shellBlock.FindAllStringSubmatch(d.chapter(t, subject), -1) {
		commands := len(asks.FindAllString(block[1], -1))
		if commands == 0 {
			continue // not of the API
		}
		answers := t.TempDir()
		out, err := suite.command(t.Context(), commandWait, "bash", "-c", "ANSWERS="+answers+"\n"+d.preamble+"\n"+block[1])
		if err != nil {
			t.Errorf("%s\nended with %v and printed\n%s\nwant status 0", block[1], err, out)
		}
		kept, err := os.ReadFile(filepath.Join(answers, "all"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(kept)) {
			var answer struct {
				Success bool           `json:"success"`
				Data    jsontext.Value `json:"data"`
				Error   *string        `json:"error"`
			}
			if strings.TrimSpace(line) == "" {
				continue
			}
			if err := json.Unmarshal([]byte(line), &answer); err != nil || !answer.Success {
				t.Errorf("%s\nanswered %s (%v), want success", block[1], line, err)
			}
			commands--
		}
		if commands != 0 {
			t.Errorf("%s\n%d calls of the API have no answer, want an answer of each", block[1], commands)
		}
		asked += len(asks.FindAllString(block[1], -1))
	}
	return asked
}

// TestDocumentedCommands runs the commands of docs/api.md as printed, with README's shell function, on a pack like the one that the page
// shows.
func TestDocumentedCommands(t *testing.T) {
	d := readDocument(t)
	shown := jsonBlock.FindStringSubmatch(d.chapter(t, "Containers"))
	if shown == nil {
		t.Fatal("docs/api.md, \"Containers\" has no block of JSON, want one with an ecosystem.json")
	}
	pack := plainPack(guidePack).with(files{"ecosystem.json": shown[1]})
	pack.copyToEcosystem(t, guidePack)
	archive := filepath.Join(suite.home, "user_data/import/my_pack.zip")
	if err := os.WriteFile(archive, pack.with(files{"new.txt": "new\n"}).zip(t, guidePack), 0o644); err != nil {
		t.Fatal(err)
	}
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+guidePack+"/approve", nil)
	for _, chapter := range []struct {
		subject string
		least   int // commands
	}{{"Network", 3}, {"Capabilities", 2}, {"Containers", 7}, {"Packs", 11}} {
		if n := d.runChapter(t, chapter.subject); n < chapter.least {
			t.Errorf("%s: %d commands were found, want %d at least", chapter.subject, n, chapter.least)
		}
	}
	if got := status(t, guidePack); got != "approved" {
		t.Errorf("after all commands the pack is %q, want approved", got)
	}
	if a, err := suite.api.Delete(t.Context(), "/api/packs/"+guidePack); err != nil || a.Status != 200 {
		t.Errorf("the removal of the pack got %v, %v; want 200", a, err)
	}
	if err := os.Remove(archive); err != nil {
		t.Error(err)
	}
}
