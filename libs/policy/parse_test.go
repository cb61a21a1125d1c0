package policy

import (
	"strings"
	"testing"
)

const example = `{
  "version": 1,
  "network": {
    "domains": {"allow": ["*.example.com", "api.github.com"], "deny": ["evil.example.com"]},
    "ports": [443, "8000-8999"],
    "wildcard": false,
    "tunnels": false
  },
  "capability": {
    "permissions": {"allow": ["secrets.get", "store.*"], "deny": ["store.admin"]},
    "mounts": [{"path": "/srv/data", "read_only": true}, {"path": "reports", "read_only": false}]
  },
  "pip": {"sdists": false},
  "containers": {"memory": "512m"},
  "roles": {"operator": {"network": {"ports": [443]}, "containers": {"memory": "256m"}}}
}
`

func TestParseSaysWhereADocumentIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		``:                                     `the policy is empty (want at least {"version": 1}`,
		" \n":                                  `the policy is empty`,
		`{}`:                                   `"version" is missing (want "version": 1)`,
		`{"version": 2}`:                       `line 1, column 2: a version that this Rumi doesn't know (want 1)`,
		`{"version": "1"}`:                     `line 1, column 2: a version`,
		`{"version": 1,}`:                      `line 1, column 14: a comma before }`,
		`[]`:                                   `line 1, column 1:`,
		`{"version": 1} {}`:                    `line 1, column 16: something follows its end`,
		`{"version":1,"version":1}`:            `a name stands twice`,
		"{\"version\": 1,\n  \"netwrok\": {}}": `line 2, column 3: "netwrok" is no rule of this version of Rumi`,
		`{"version": 1, "injection": {"targets": []}}`:                                                `line 1, column 16: "injection" is no rule`,
		`{"version": 1, "pip": {"min_age": "72h"}}`:                                                   `line 1, column 24: "pip.min_age" is no rule`,
		`{"version": 1, "roles": {"operator": {"netwrok": {}}}}`:                                      `line 1, column 39: "roles.operator.netwrok" is no rule`,
		`{"version": 1, "roles": {"operator": {"roles": {}}}}`:                                        `"roles.operator.roles" is no rule`,
		`{"version": 1, "roles": {"root": {}}}`:                                                       `"root" is no role that grants anything (want one of [operator admin])`,
		`{"version": 1, "roles": {"viewer": {}}}`:                                                     `"viewer" is no role that grants anything`,
		`{"version": 1, "network": null}`:                                                             `line 1, column 16: null is no rule`,
		`{"version": 1, "network": {"ports": [443, null]}}`:                                           `line 1, column 43: null is no rule`,
		`{"version": 1, "network": []}`:                                                               `line 1, column 16: "network" has the wrong type (want an object)`,
		`{"version": 1, "network": {"wildcard": "no"}}`:                                               `line 1, column 28: "network.wildcard" has the wrong type (want true or false)`,
		`{"version": 1, "network": {"ports": 443}}`:                                                   `line 1, column 28: "network.ports" has the wrong type (want a list)`,
		`{"version": 1, "network": {"ports": [0]}}`:                                                   `line 1, column 38: "0" is no port or range`,
		`{"version": 1, "network": {"ports": [443, 65536]}}`:                                          `line 1, column 43: "65536" is no port or range`,
		`{"version": 1, "network": {"ports": ["443"]}}`:                                               `"443" is no port or range (want 443, or "8000-8999"`,
		`{"version": 1, "network": {"ports": ["9-8"]}}`:                                               `"9-8" is no port or range`,
		`{"version": 1, "network": {"ports": ["0-8"]}}`:                                               `"0-8" is no port or range`,
		`{"version": 1, "network": {"ports": ["1-70000"]}}`:                                           `"1-70000" is no port or range`,
		`{"version": 1, "network": {"ports": [1.5]}}`:                                                 `"1.5" is no port or range`,
		`{"version": 1, "network": {"ports": [{}]}}`:                                                  `"{}" is no port or range`,
		"{\"version\": 1, \"network\": {\"domains\":\n {\"allow\": [\"a.com\", \"https://b.com\"]}}}": `line 2, column 22: "https://b.com" is no domain`,
		`{"version": 1, "network": {"domains": {"deny": ["*.*.com"]}}}`:                               `"*.*.com" is no domain`,
		`{"version": 1, "network": {"domains": {"deny": ["127.1"]}}}`:                                 `"127.1" is no domain`,
		`{"version": 1, "network": {"domains": {"deny": [7]}}}`:                                       `line 1, column 49: want a domain in double quotes`,
		`{"version": 1, "network": {"domains": ["a.com"]}}`:                                           `line 1, column 28: "network.domains" has the wrong type (want an object)`,
		`{"version": 1, "capability": {"permissions": {"allow": ["Secrets.get"]}}}`:                   `"Secrets.get" is no permission`,
		`{"version": 1, "capability": {"permissions": {"allow": ["store*"]}}}`:                        `"store*" is no permission`,
		`{"version": 1, "capability": {"mounts": [{"path": "/srv/../etc"}]}}`:                         `"/srv/../etc" is no folder`,
		`{"version": 1, "capability": {"mounts": [{"path": "/srv/"}]}}`:                               `"/srv/" is no folder`,
		`{"version": 1, "capability": {"mounts": [{"path": "../x"}]}}`:                                `"../x" is no folder`,
		`{"version": 1, "capability": {"mounts": [{"read_only": true}]}}`:                             `a mount without "path"`,
		`{"version": 1, "capability": {"mounts": ["/srv"]}}`:                                          `"capability.mounts.0" has the wrong type (want an object)`,
		`{"version": 1, "containers": {"memory": 512}}`:                                               `want a size such as "512m"`,
		`{"version": 1, "containers": {"memory": "512"}}`:                                             `"512" is no size`,
		`{"version": 1, "containers": {"memory": "512MB"}}`:                                           `"512MB" is no size`,
		`{"version": 1, "containers": {"memory": "8m"}}`:                                              `"8m" is too little (want a size such as "512m" or "2g", at least "16m")`,
		`{"version": 1, "containers": {"memory": "99999999999g"}}`:                                    `is no size`,
		"\xef\xbb\xbf{\"version\": 1}":                                                                `a byte order mark`,
		`{"version": 1` + strings.Repeat(" ", MaxBytes) + `}`:                                         `a policy of more than 1048576 bytes`,
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.100s)\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestParseTakesTheExample(t *testing.T) {
	p, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if string(p.Document()) != example || !strings.HasPrefix(p.Digest(), "sha256:") || len(p.Digest()) != 71 {
		t.Errorf("got document %q, digest %q", p.Document(), p.Digest())
	}
	if None().Digest() == p.Digest() {
		t.Error("two documents have one digest")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{example, `{"version": 1}`, `{"version":1,"network":{"ports":["1-65535"]}}`, `{"version":1,"network":{"domains":{"allow":["*"]}}}`,
		"{\"version\":1,\"roles\":{\"a\\\"b\":{}}}", `{"version":1,"capability":{"mounts":[{"path":"."}]}}`, `{"version":`, `{"version":1,"x":nul`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("the error for %q has control characters: %q", text, err)
			}
			return
		}
		again, err := Parse(p.Document())
		if err != nil || again.Digest() != p.Digest() {
			t.Errorf("%q was taken, and then not: %v", text, err)
		}
		p.Network("", Network{Domains: []string{"*", "a.example.com", "*.example.com", "::1"}, Ports: []int{0, 443}, Tunnels: true})
		p.Capability("operator", Capability{Permission: "secrets.get", Mounts: []Mount{{Path: "/srv"}}, Memory: 1 << 30})
	})
}
