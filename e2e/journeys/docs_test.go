package journeys

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

var fenced = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// The commands in docs/api.md's parts on the network and on capabilities work as printed, with README's shell function.
func TestDocumentedCommands(t *testing.T) {
	plainPack(guidePack).place(t, guidePack)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+guidePack+"/approve", nil)
	readme, err := os.ReadFile(filepath.Join(suite.root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var function string
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, "    api() {") {
			function = strings.ReplaceAll(line, "http://localhost:8765", suite.base)
		}
	}
	docs, err := os.ReadFile(filepath.Join(suite.root, "docs/api.md"))
	if err != nil {
		t.Fatal(err)
	}
	var parts string
	for _, subject := range []string{"Network", "Capabilities"} {
		_, part, _ := strings.Cut(string(docs), "\n## "+subject+"\n")
		part, _, _ = strings.Cut(part, "\n## ")
		parts += part
	}
	ran := 0
	for _, block := range fenced.FindAllStringSubmatch(parts, -1) {
		for command := range strings.SplitSeq("\n"+block[1], "\napi ") {
			if strings.TrimSpace(command) == "" || !strings.Contains(block[1], "api "+command) {
				continue // not of the API
			}
			script := "cd " + suite.home + "\nTOKEN=$(cat user_data/settings/api_token)\n" + function + "\napi " + command
			out, err := suite.command(t.Context(), commandWait, "bash", "-c", script)
			if err != nil {
				t.Fatal(err)
			}
			var answer struct {
				Success bool `json:"success"`
			}
			if err := json.Unmarshal([]byte(out), &answer); err != nil || !answer.Success {
				t.Errorf("api %s\nanswered %s (%v)", command, out, err)
			}
			ran++
		}
	}
	if ran < 5 {
		t.Errorf("only %d commands were found", ran)
	}
	if a, err := suite.api.Delete(t.Context(), "/api/packs/"+guidePack); err != nil || a.Status != 200 {
		t.Errorf("remove the pack: %v, %v", a, err)
	}
}
