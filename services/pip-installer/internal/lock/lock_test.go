package lock_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

func parse(text string) (string, error) {
	found, err := lock.Parse([]byte(text))
	var out []string
	for _, r := range found {
		out = append(out, r.String())
	}
	return strings.Join(out, " "), err
}

func TestAccepted(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"one", "idna==3.10\n", "idna==3.10"},
		{"no newline at the end", "idna==3.10", "idna==3.10"},
		{"several, empty lines, comments", "# a\n\nidna==3.10\n\t\n  # b\ncertifi==2024.8.30\n", "idna==3.10 certifi==2024.8.30"},
		{"CR LF", "idna==3.10\r\ncertifi==2024.8.30\r\n", "idna==3.10 certifi==2024.8.30"},
		{"white space", "  idna \t== \t3.10 \t\n", "idna==3.10"},
		{"inline comment", "idna==3.10 # see #12\ncertifi==1\t#x", "idna==3.10 certifi==1"},
		{"comment in Japanese", "# 依存ライブラリ　一覧\nidna==3.10 # 国際化ドメイン名\n", "idna==3.10"},
		{"extras", "uvicorn[standard]==0.30.1\nrequests [ socks , Use_Chardet ] == 2.32.3", "uvicorn[standard]==0.30.1 requests[socks,use-chardet]==2.32.3"},
		{"local version", "torch==2.4.0+cpu", "torch==2.4.0+cpu"},
		{"other versions", "a==1!2.0\nb==1.0rc1\nc==1.0.post1.dev2\nd==1.0-1\ne==20240101", "a==1!2.0 b==1.0rc1 c==1.0.post1.dev2 d==1.0-1 e==20240101"},
		{"names", "a==1\nA-b_c.d9==1\nzope.interface==6.4", "a==1 A-b_c.d9==1 zope.interface==6.4"},
		{"coding in a later line", "idna==3.10\n\n# coding: utf-8\n", "idna==3.10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := parse(c.text); err != nil || got != c.want {
				t.Errorf("%q: %q, %v; want %v", c.text, got, err, c.want)
			}
		})
	}
}

// The class "Locks" of conformance.md.
func TestRefused(t *testing.T) {
	cases := map[string][]string{
		"options": {
			"-r other.txt", "--requirement other.txt", "-c c.txt", "-i https://example.com/simple", "--index-url https://example.com/simple",
			"--extra-index-url https://example.com/simple", "-f https://example.com", "--find-links .", "--no-index", "--pre",
			"--trusted-host example.com", "-e .", "--editable .", "--no-binary :all:", "--only-binary=:none:", "--use-feature=x",
			"idna==3.10 --hash=sha256:00", "idna==3.10 --config-settings x=y", "idna==3.10 --global-option=x", "idna==3.10 -e .",
		},
		"URLs": {"https://example.com/idna-3.10-py3-none-any.whl", "http://example.com/x", "file:///etc/passwd", "ftp://example.com/x"},
		"VCS":  {"git+https://example.com/x.git", "git+ssh://git@example.com/x.git@v1", "hg+http://example.com/x", "svn+svn://example.com/x", "bzr+https://example.com/x"},
		"paths": {
			".", "./x", "../x", "/x", "x/", `C:\x`, `..\x`, "./idna-3.10-py3-none-any.whl", "idna-3.10-py3-none-any.whl", "idna-3.10.tar.gz", "~/x", "x.egg-info",
		},
		"direct references": {"idna @ https://example.com/x.whl", "idna@https://example.com/x.whl", "idna @ file:///x", "idna==3.10 @ https://example.com"},
		"markers":           {"idna==3.10; python_version < '4'", "idna==3.10;python_version<'4'", "idna==3.10 ; extra == 'x'", "idna; os_name=='x'"},
		"continuations":     {"idna==3.10 \\\n--index-url=https://example.com", "idna\\\n==3.10", "idna==3.10\\", "# comment \\\n-e .", "\\\nidna==3.10"},
		"variables":         {"${NAME}==1", "idna==${VERSION}", "$NAME==1", "idna==3.10${X}", "%NAME%==1"},
		"wildcards":         {"idna==3.*", "idna==*", "*==1", "idna==3.10.*"},
		"other operators": {
			"idna", "idna=3.10", "idna===3.10", "idna==3.10==3.10", "idna== =3.10", "idna>=3.10", "idna<=3.10", "idna~=3.10", "idna!=3.10", "idna>3", "idna<4",
			"idna==3.10,==3.10", "idna==3.10,<4", "idna (==3.10)", "idna== 3. 10", "idna = = 3.10", "==3.10", "idna==", "idna==,", "idna 3.10",
		},
		"versions":     {"idna==latest", "idna==v3.10", "idna==3..10", "idna==3.10+", "idna==3.10+a+b", "idna==-1", "idna==1.0/../x", "idna==1.0#x", "idna==" + strings.Repeat("1", 200)},
		"names":        {"-idna==1", "idna-==1", ".==1", "_x==1", "i dna==1", "idna!==1", "a/b==1", "a:b==1", "a'b==1", `"idna"==1`, "idna==1 certifi==1", "idna==1,certifi==1"},
		"extras":       {"idna[]==1", "idna[a,]==1", "idna[,a]==1", "idna[a b]==1", "idna[a==1", "idna]==1", "idna[a][b]==1", "idna[-a]==1", "idna[a;b]==1", "[a]==1"},
		"comments":     {"idna==3.10# no white space before it", "idna#==3.10", "idna==3.10#egg=x"},
		"coding":       {"# -*- coding: utf-7 -*-\nidna==3.10", "#!x\n# vim: set fileencoding=latin-1 :\nidna==3.10", "idna==3.10 # coding=utf-16", "# coding:utf-8\nidna==3.10"},
		"encodings":    {"\xef\xbb\xbfidna==3.10", "\xff\xfei\x00d\x00n\x00a\x00", "idna==3.10\xff", "+AGkAZABuAGE-==3.10\x80"},
		"homoglyphs":   {"іdna==3.10", "idnа==3.10", "ｉｄｎａ==3.10", "idna＝＝3.10", "idna==３.10", "idna==3.1０", "ıdna==1", "Kelvin\u212a==1", "idna\u00a0==1", "idna==1\u3000"},
		"hidden":       {"idna==3.10 # \u202e", "# \u2066x\nidna==1", "idna\u200b==1", "idna\u00ad==1", "\ufeffidna==1", "# \ufeff\nidna==1", "# \U000e0041\nidna==1"},
		"NUL":          {"idna==3.10\x00", "# \x00\nidna==1", "\x1bidna==1", "\x7fidna==1"},
		"empty":        {"", "\n", "# nothing\n", " \t\r\n", "\r\n\r\n"},
		"twice":        {"idna==3.10\nidna==3.10", "idna==3.10\nIDNA==3.9", "a.b==1\nA-B==1", "a__b==1\na-b==1", "a[x]==1\na==1"},
		"too large":    {"idna==3.10\n#" + strings.Repeat("x", lock.MaxBytes)},
		"second line":  {"idna==3.10\n-e .", "idna==3.10\r-e .", "idna==3.10 # x\r-e .", "idna==3.10\r\r\ncertifi==1"},
		"shell":        {"idna==3.10; rm -rf /", "idna==`id`", "idna==$(id)", "idna==3.10 && id", "idna==3.10 | sh", "'idna'==1"},
		"TOML and INI": {"[tool.x]", "idna = \"==3.10\"", "[idna]==1"},
	}
	// Every character that str.splitlines takes for a line break, and a lone CR, in a comment and after a requirement.
	for _, c := range pythonLineBreaks {
		cases["line breaks of Python"] = append(cases["line breaks of Python"],
			"idna==3.10 # x"+string(c)+"-e .", "# x"+string(c)+"evil==1\nidna==1", "idna==3.10"+string(c)+"evil==1", "idna==3.10"+string(c))
	}
	for class, texts := range cases {
		for _, text := range texts {
			t.Run(class, func(t *testing.T) {
				if got, err := parse(text); err == nil {
					t.Errorf("%.200q was read as %q; want an error", text, got)
				} else if len(err.Error()) > 300 {
					t.Errorf("%.200q: error of %d bytes; want 300 at most", text, len(err.Error()))
				}
			})
		}
	}
}

// pythonLineBreaks are those of str.splitlines but the newline; a CR counts unless a newline follows.
var pythonLineBreaks = []rune{'\r', '\v', '\f', '\x1c', '\x1d', '\x1e', '\u0085', '\u2028', '\u2029'}

func TestErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"idna==3.10\n\n-e .":       `line 3: "-e ." is not NAME==VERSION (pin it: pip freeze, or uv pip compile --no-annotate --no-emit-index-url)`,
		"a==1 --hash=sha256:0":     `line 1: "a==1 --hash=sha256:0" is not NAME==VERSION: hashes are not read yet (uv pip compile --no-generate-hashes)`,
		"idna==3.10\nIdna==3.9":    `line 2: Idna is listed in line 1 already`,
		"a==1 # \u2028":            `line 1: character U+2028 is not allowed`,
		"a==x":                     `line 1: "x" is not a version (PEP 440)`,
		"\u0430==1":                "line 1: \"\u0430==1\" has a character that is not ASCII",
		"# nothing":                `lists no package`,
		strings.Repeat("x", 1<<21): `larger than 1048576 bytes`,
	} {
		if _, err := lock.Parse([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		asked, installed string
		want             bool
	}{
		{"1.0", "1.0", true}, {"1.0", "1", true}, {"1", "1.0.0", true}, {"1.0", "01.0", true}, {"1.10", "1.1", false},
		{"1.0", "1.0+cpu", true}, {"1.0+cpu", "1.0", false}, {"1.0+cpu", "1.0+CPU", true}, {"1.0+a.01", "1.0+a-1", true}, {"1.0+a", "1.0+b", false},
		{"1.0a1", "1.0-alpha.1", true}, {"1.0rc1", "1.0c1", true}, {"1.0rc1", "1.0.pre1", true}, {"1.0rc", "1.0rc0", true}, {"1.0a1", "1.0b1", false},
		{"1.0-1", "1.0.post1", true}, {"1.0.rev1", "1.0.post1", true}, {"1.0", "1.0.post1", false}, {"1.0.dev", "1.0.dev0", true}, {"1.0", "1.0.dev1", false},
		{"0!1.0", "1.0", true}, {"1!1.0", "1.0", false}, {"1.0RC1", "1.0rc1", true}, {"100", "1", false},
	} {
		asked, ok1 := lock.ParseVersion(c.asked)
		installed, ok2 := lock.ParseVersion(c.installed)
		if !ok1 || !ok2 || asked.Matches(installed) != c.want {
			t.Errorf("==%s matches %s: want %v (read: %v, %v)", c.asked, c.installed, c.want, ok1, ok2)
		}
	}
}

// Whatever is accepted means to pip what it means to us: split and stripped as pip does it, each line is one of ours.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"idna==3.10\n", "uvicorn[standard, x]==0.30.1 # c\r\n\r\n# 日本\ntorch==2.4.0+cpu", "a==1\r-e .", "a==1 # \u2028b==1", "a==1;x",
		"${A}==1", "a==1 \\\n-r x", "\ufeffa==1", "# coding: utf-7\na==1", "a[b]==1\na==1", "a==1!2.0.post1.dev3",
	} {
		f.Add([]byte(seed))
	}
	comment := regexp.MustCompile(`(^|\s+)#.*$`)
	line := regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[A-Za-z0-9._, \t-]+\])?\s*==\s*[A-Za-z0-9.!+_-]+$`)
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := lock.Parse(data)
		if err != nil {
			return
		}
		text := strings.ReplaceAll(string(data), "\r\n", "\n")
		for _, c := range pythonLineBreaks {
			text = strings.ReplaceAll(text, string(c), "\n")
		}
		var names []string
		for l := range strings.SplitSeq(text, "\n") {
			l = strings.TrimSpace(comment.ReplaceAllString(l, ""))
			if l == "" {
				continue
			}
			m := line.FindStringSubmatch(l)
			if m == nil {
				t.Fatalf("accepted %q with the line %q; want it refused", data, l)
			}
			names = append(names, m[1])
		}
		var got []string
		seen := map[string]bool{}
		for _, r := range found {
			got = append(got, r.Name)
			if seen[r.Key()] {
				t.Fatalf("%q lists %s twice; want not seen[r.Key()]", data, r.Name)
			}
			seen[r.Key()] = true
			again, err := lock.Parse([]byte(r.String()))
			if err != nil || len(again) != 1 || fmt.Sprint(again[0]) != fmt.Sprint(r) {
				t.Fatalf("%q reads back as %v, %v; want the same alone", r, again, err)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(names) {
			t.Fatalf("%q: we read %q, pip %q; want the same", data, got, names)
		}
	})
}
