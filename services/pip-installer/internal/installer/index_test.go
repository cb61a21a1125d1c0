package installer_test

import (
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/installer"
)

func TestIndexes(t *testing.T) {
	indexes, err := installer.ParseIndexes([]string{"https://Index.Example:443/Simple/", " https://10.0.0.1:8443", "https://[fd00::1]:444/x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ asked, want, refusal string }{
		{"", "https://index.example/Simple", ""},
		{"https://index.example/Simple", "https://index.example/Simple", ""},
		{"https://INDEX.example/Simple//", "https://index.example/Simple", ""},
		{"https://10.0.0.1:8443/", "https://10.0.0.1:8443", ""},
		{"https://[FD00::1]:444/x", "https://[fd00::1]:444/x", ""},

		{"https://index.example/simple", "", "is not allowed"},
		{"https://index.example", "", "is not allowed"},
		{"https://index.example:444/Simple", "", "is not allowed"},
		{"https://index.example./Simple", "", "host is not valid"},
		{"https://xindex.example/Simple", "", "is not allowed"},
		{"https://10.1/x", "", "is not allowed"},
		{"https://0x0a000001:8443", "", "is not allowed"},
		{"https://gateway:8080/", "", "is not allowed"},
		{"https://[::ffff:10.0.0.1]:8443", "", "is not allowed"},
		{"http://index.example/Simple", "", "must begin with https://"},
		{"HTTP://index.example/Simple", "", "must begin with https://"},
		{"ftp://index.example/Simple", "", "must begin with https://"},
		{"file:///etc/passwd", "", "must begin with https://"},
		{"//index.example/Simple", "", "must begin with https://"},
		{"/Simple", "", "must begin with https://"},
		{"https:index.example/Simple", "", "not a URL"},
		{"https://user@index.example/Simple", "", "user or password"},
		{"https://index.example/Simple?x=1", "", "query or fragment"},
		{"https://index.example/Simple?", "", "query or fragment"},
		{"https://index.example/Simple#", "", "query or fragment"},
		{"https://index.example/Simple#x", "", "query or fragment"},
		{"https:///Simple", "", "host is not valid"},
		{"https://:443/Simple", "", "host is not valid"},
		{"https://index.example:/Simple", "", "host is not valid"},
		{"https://index..example/Simple", "", "host is not valid"},
		{"https://-index.example/Simple", "", "host is not valid"},
		{"https://index_example/Simple", "", "host is not valid"},
		{"https://index%2eexample/Simple", "", "not"},
		{"https://ｉndex.example/Simple", "", "not a URL"},
		{"https://index.example/Simple\n", "", "not a URL"},
		{"https://index.example /Simple", "", "not a URL"},
		{"https://index.example/Simple --pre", "", "not a URL"},
		{"--index-url=https://index.example/Simple", "", "not a URL"},
		{"https://index.example/Simple\x00", "", "not a URL"},
		{strings.Repeat("x", 100_000), "", "must begin with https://"},
	} {
		got, err := indexes.Choose(c.asked)
		if c.refusal == "" && (err != nil || got != c.want) {
			t.Errorf("%q: got %q, %v; want %q", c.asked, got, err, c.want)
		}
		if c.refusal != "" && (!fault.Is(err, fault.KindInvalid) || !strings.Contains(err.Error(), c.refusal) || len(err.Error()) > 200) {
			t.Errorf("%.100q: %q, %v; want %s", c.asked, got, err, c.refusal)
		}
	}
}

func TestWithoutAListOnlyTheDefault(t *testing.T) {
	var none installer.Indexes
	if got, err := none.Choose(""); got != "" || err != nil {
		t.Errorf("no index: got %q, %v; want nothing", got, err)
	}
	if got, err := none.Choose("https://index.example"); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("an index that isn't listed: got %q, %v; want that it is invalid", got, err)
	}
}

func TestBadSettingsAreFatal(t *testing.T) {
	for _, list := range [][]string{{"http://index.example"}, {"https://index.example", "x"}, {""}, {"https://u:secret@index.example"}} {
		if _, err := installer.ParseIndexes(list); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("indexes %q: %v; want an error without the secret", list, err)
		}
	}
	for _, list := range [][]string{{"10.0.0.1"}, {"10.0.0.0/33"}, {"x"}, {""}} {
		if _, err := installer.ParseCIDRs(list); err == nil {
			t.Errorf("networks %q: no error; want an error", list)
		}
	}
	if got, err := installer.ParseCIDRs([]string{" 10.1.2.3/8", "fd00::1/8"}); err != nil || strings.Join(got, " ") != "10.0.0.0/8 fd00::/8" {
		t.Errorf("the networks are %q, %v; want 10.0.0.0/8 and fd00::/8", got, err)
	}
}

func TestValidKey(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	for key, want := range map[string]bool{
		"weather:requirements.lock:" + sum:               true,
		"a__b:backend/requirements.lock:" + sum:          true,
		"weather:requirements.lock:" + sum + "\n":        false,
		"weather:requirements.lock:" + sum[1:]:           false,
		"weather:requirements.lock:" + sum + ":x":        false,
		"weather:requirements.lock":                      false,
		"weather:/requirements.lock:" + sum:              false,
		"weather:../requirements.lock:" + sum:            false,
		"weather:backend//requirements.lock:" + sum:      false,
		"../x:requirements.lock:" + sum:                  false,
		":requirements.lock:" + sum:                      false,
		strings.Repeat("x", 65) + ":requirements.lock:0": false,
		"": false,
	} {
		if got := installer.ValidKey(key); got != want {
			t.Errorf("%q: %v; want %v", key, got, want)
		}
	}
}
