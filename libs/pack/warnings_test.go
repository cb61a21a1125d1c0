package pack_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rumi-ai/rumi/libs/pack"
)

func TestWarnings(t *testing.T) {
	tree := func(names ...string) fstest.MapFS {
		files := fstest.MapFS{"ecosystem.json": {}}
		for _, name := range names {
			files[name] = &fstest.MapFile{}
		}
		return files
	}
	for name, c := range map[string]struct {
		members string // of the descriptor
		files   fstest.MapFS
		want    []string
	}{
		"nothing to say":            {`"entrypoint": "main.py"`, tree("main.py"), nil},
		"handlers only":             {`"version": "1"`, tree("share/capability_handlers/x/handler.py"), nil},
		"misspelt":                  {`"entry_point": "main.py"`, tree("main.py"), []string{"ecosystem.json: 'entry_point' is not known (entrypoint?)", "no entrypoint: a container of it will idle"}},
		"misspelt by case":          {`"Version": "1", "entrypoint": "main.py"`, tree("main.py"), []string{"ecosystem.json: 'Version' is not known (version?)"}},
		"nothing like it":           {`"schedule": "daily", "name": "x", "entrypoint": "main.py"`, tree("main.py"), []string{"ecosystem.json: 'schedule' is not known", "ecosystem.json: 'name' is not known"}},
		"misspelt inside":           {`"required_network": {"allowed_domain": ["a.example"]}, "entrypoint": "main.py"`, tree("main.py"), []string{"ecosystem.json: 'required_network.allowed_domain' is not known (required_network.allowed_domains?)"}},
		"anything inside":           {`"connectivity": {"whatever": 1}, "entrypoint": "main.py"`, tree("main.py"), nil},
		"hidden name":               {`"a\u200bb": 1, "entrypoint": "main.py"`, tree("main.py"), []string{`ecosystem.json: 'a\u200bb' is not known`}},
		"entrypoint missing":        {`"entrypoint": "app.py"`, tree("main.py"), []string{"entrypoint app.py is not in the pack"}},
		"entrypoint, case":          {`"entrypoint": "Main.py"`, tree("main.py"), []string{"entrypoint Main.py is not in the pack (main.py?)"}},
		"entrypoint, Unicode form":  {`"entrypoint": "か\u3099.py"`, tree("が.py"), []string{"entrypoint か\u3099.py is not in the pack (a file of that name in another Unicode form is)"}},
		"entrypoint a folder":       {`"entrypoint": "backend"`, tree("backend/main.py"), []string{"entrypoint backend is a folder"}},
		"entrypoint in a command":   {`"entrypoint": ["python3", "-u", "app.py"]`, tree("main.py"), []string{"entrypoint's python3 app.py is not in the pack"}},
		"entrypoint elsewhere":      {`"entrypoint": ["python3", "/opt/x.py"]`, tree(), nil},
		"entrypoint, another kind":  {`"entrypoint": ["python3", "-m", "x"]`, tree(), nil},
		"no lock":                   {`"entrypoint": "main.py"`, tree("main.py", "requirements.txt"), []string{"requirements.txt is not read; write exact versions to requirements.lock"}},
		"no lock in backend":        {`"entrypoint": "main.py"`, tree("main.py", "backend/requirements.txt"), []string{"backend/requirements.txt is not read; write exact versions to backend/requirements.lock"}},
		"a lock as well":            {`"entrypoint": "main.py"`, tree("main.py", "requirements.txt", "requirements.lock"), nil},
		"no key of a secret":        {`"required_secrets": ["openai-key", "OK"], "entrypoint": "main.py"`, tree("main.py"), []string{"required_secrets: 'openai-key' can't be the key of a secret (1 to 64 of A-Z, 0-9 and _)"}},
		"a URL":                     {`"required_network": {"allowed_domains": ["https://a.example/v1"], "allowed_ports": [443]}, "entrypoint": "main.py"`, tree("main.py"), []string{"required_network: 'https://a.example/v1' is no domain (want the name alone, such as api.example.com; ports go to allowed_ports)"}},
		"domains without ports":     {`"required_network": {"allowed_domains": ["*.a.example"]}, "entrypoint": "main.py"`, tree("main.py"), []string{"required_network names domains and no allowed_ports (443 for https)"}},
		"ports without domains":     {`"required_network": {"allowed_ports": [443]}, "entrypoint": "main.py"`, tree("main.py"), []string{"required_network names ports and no allowed_domains"}},
		"text of another direction": {`"required_secrets": ["A\u202e"], "entrypoint": "main.py"`, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := pack.ParseDescriptor([]byte(`{"pack_id": "p", "pack_identity": "github:a/p", ` + c.members + `}`))
			if c.files == nil {
				if err == nil {
					t.Errorf("got %+v, want an error", d)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := pack.Warnings(d, c.files); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestWarningsAreBounded(t *testing.T) {
	var members strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&members, `, "x%d%s": 1`, i, strings.Repeat("y", 1000))
	}
	d, err := pack.ParseDescriptor([]byte(`{"pack_id": "p", "entrypoint": "m"` + members.String() + `}`))
	if err != nil {
		t.Fatal(err)
	}
	got := pack.Warnings(d, fstest.MapFS{"m": {}})
	if len(got) != pack.MaxWarnings+1 || got[pack.MaxWarnings] != "970 more" || len(got[0]) > 300 {
		t.Errorf("got %d warnings, the first of %d bytes, the last %q; want %d, of 300 bytes at most, the last \"970 more\"", len(got), len(got[0]), got[len(got)-1], pack.MaxWarnings+1)
	}
}

// TestDescriptorTexts has descriptors that are wrong in the usual ways, and what their authors are told.
func TestDescriptorTexts(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"trailing comma":       {"{\n  \"pack_id\": \"p\",\n}", "line 2, column 17: a comma before }"},
		"comment":              {"{ // a pack\n \"pack_id\": \"p\"}", "line 1, column 3: JSON has no comments"},
		"single quotes":        {"{'pack_id': 'p'}", "line 1, column 2: a name must be in double quotes"},
		"NaN":                  {`{"pack_id": NaN}`, "line 1, column 13: want true, false, null or a number; a text must be in double quotes"},
		"cut off":              {`{"pack_id": "p"`, "line 1, column 16: it ends too early"},
		"twice":                {"{\"pack_id\": \"p\",\n\"pack_id\": \"p\"}", "line 2, column 1: a name stands twice in one object"},
		"not UTF-8":            {"{\"pack_id\": \"p\",\n\"description\": \"\x93V\"}", "line 2, column 17: not UTF-8"},
		"number as version":    {"{\"pack_id\": \"p\",\n\"version\": 1}", `line 2, column 12: "version" has the wrong type: want a text, such as "1.0"`},
		"port as text":         {"{\"pack_id\": \"p\",\n\"required_network\": {\"allowed_ports\": [\"443\"]}}", `"required_network.allowed_ports.0" has the wrong type: want {"allowed_domains": ["api.example.com"], "allowed_ports": [443]}`},
		"unknown resource":     {"{\"pack_id\": \"p\",\n\"resources\": {\"memory\": 1}}", `"resources.memory" is unknown`},
		"empty":                {" \n", "it is empty; a JSON object is needed"},
		"array":                {"[]", "not a JSON object"},
		"UTF-16, little":       {"\xff\xfe{\x00}\x00", "it is in UTF-16 (little endian); save it as UTF-8"},
		"UTF-16, big":          {"\xfe\xff\x00{\x00}", "it is in UTF-16 (big endian); save it as UTF-8"},
		"UTF-16 without mark":  {"{\x00}\x00", "it is in UTF-16 (little endian); save it as UTF-8"},
		"two byte order marks": {"\ufeff\ufeff{}", "line 1, column 1: a byte order mark; save it as UTF-8 without one"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pack.ParseDescriptor([]byte(c.text))
			if err == nil || !strings.HasSuffix(err.Error(), c.want) || strings.Contains(err.Error(), "jsontext") {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	if d, err := pack.ParseDescriptor([]byte("\ufeff" + `{"pack_id": "p"}`)); err != nil || d.PackID != "p" {
		t.Errorf("one byte order mark: got %+v, %v; want pack id p", d, err)
	}
}
