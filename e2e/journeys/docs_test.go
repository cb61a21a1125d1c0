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
	asks       = regexp.MustCompile(`(?m)(^|\$\()api `) // a command of the API, or one whose answer is kept
)

// keepAnswers defines api by ask, and keeps what is answered. Two may be asked at once, in a pipeline.
const keepAnswers = `
api() {
    local answer
    answer=$(mktemp -p "$ANSWERS")
    ask "$@" > "$answer"
    { cat "$answer"; echo; } >> "$ANSWERS/all"
    cat "$answer"
}
`

// document is docs/api.md together with README's shell function, which its commands stand on.
type document struct {
	text     string
	preamble string
}

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
		t.Fatal("the shell functions are not where they were")
	}
	d.preamble = "set -eu\ncd " + suite.home + "\n" +
		strings.Replace(function, "api()", "ask()", 1) + // what it answers is kept, wherever it goes
		keepAnswers + helpers[1]
	return d
}

// part is a chapter.
func (d document) part(t *testing.T, subject string) string {
	t.Helper()
	_, part, found := strings.Cut(d.text, "\n## "+subject+"\n")
	if !found {
		t.Fatalf("no chapter %s", subject)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	return part
}

// run runs the blocks of commands of a chapter as they are printed, each in a shell of its own, and gives how many asked the API.
func (d document) run(t *testing.T, subject string) (asked int) {
	t.Helper()
	for _, block := range shellBlock.FindAllStringSubmatch(d.part(t, subject), -1) {
		commands := len(asks.FindAllString(block[1], -1))
		if commands == 0 {
			continue // not of the API
		}
		answers := t.TempDir()
		out, err := suite.command(t.Context(), commandWait, "bash", "-c", "ANSWERS="+answers+"\n"+d.preamble+"\n"+block[1])
		if err != nil {
			t.Errorf("%s\nanswered %s\n%v", block[1], out, err)
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
			t.Errorf("%s\n%d of its commands have no answer", block[1], commands)
		}
		asked += len(asks.FindAllString(block[1], -1))
	}
	return asked
}

// The commands in docs/api.md work as printed, with README's shell function, on a pack like the one that it shows.
func TestDocumentedCommands(t *testing.T) {
	d := readDocument(t)
	shown := jsonBlock.FindStringSubmatch(d.part(t, "Containers"))
	if shown == nil {
		t.Fatal("the chapter on containers shows no pack")
	}
	pack := plainPack(guidePack).with(files{"ecosystem.json": shown[1]})
	pack.place(t, guidePack)
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
		if n := d.run(t, chapter.subject); n < chapter.least {
			t.Errorf("%s: only %d commands were found", chapter.subject, n)
		}
	}
	if got := status(t, guidePack); got != "approved" {
		t.Errorf("after all the pack is %q", got)
	}
	if a, err := suite.api.Delete(t.Context(), "/api/packs/"+guidePack); err != nil || a.Status != 200 {
		t.Errorf("the removal of the pack got %v, %v; want 200", a, err)
	}
	if err := os.Remove(archive); err != nil {
		t.Error(err)
	}
}
