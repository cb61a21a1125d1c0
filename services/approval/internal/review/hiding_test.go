package review_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

// kindsOf are the kinds of warnings of a pack with these files.
func kindsOf(t *testing.T, files map[string]string) (kinds []string, warnings []review.Warning) {
	t.Helper()
	m := &memory{}
	r, err := review.Of(review.Input{Now: scan(t, m, files), Open: m.open})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range r.Warnings {
		if !slices.Contains(kinds, w.Kind) {
			kinds = append(kinds, w.Kind)
		}
	}
	return kinds, r.Warnings
}

// Text that hides: each of these is told, by its property.
func TestTextThatHides(t *testing.T) {
	padded := strings.Repeat("# padding\n", 1<<20/2)
	behind := map[string]bool{} // kinds that were looked for behind that
	for _, c := range []struct{ name, file, text, kind string }{
		{"selectors 17 to 256", "main.py", `exec(dec("` + "\U000e0100\U000e01ef" + `"))`, "invisible"},
		{"selectors behind an emoji", "main.py", "x = '😀\U000e0142\U000e0150'", "invisible"},
		{"a second selector behind an emoji", "main.py", "x = '⚠\ufe0f\ufe0f'", "invisible"},
		{"selector 1", "main.py", "x\ufe00 = 1", "invisible"},
		{"zero width joiner in an identifier", "main.py", "ad\u200dmin = 1", "invisible"},
		{"word joiner", "a.js", "a\u2060b", "invisible"},
		{"tags", "a.txt", "a\U000e0041\U000e0042", "invisible"},
		{"Hangul filler", "a.js", "const { x,\u3164} = y", "invisible"},
		{"half-width Hangul filler", "a.js", "if (u.check\uffa0) {}", "invisible"},
		{"braille blank", "a.py", "x = '\u2800'", "invisible"},
		{"byte order mark within", "a.py", "x = 1\ufeff", "invisible"},
		{"soft hyphen", "a.py", "pass\u00adword", "invisible"},
		{"private use", "main.py", "x = '\ue000\uf8ff'", "private_use"},
		{"private use, plane 15", "main.py", "x = '\U000f1234'", "private_use"},
		{"unassigned", "main.py", "x = '\u0378'", "unassigned"},
		{"noncharacter", "main.py", "x = '\ufdd0'", "unassigned"},
		{"override", "main.py", "x = 1 # \u202e", "bidirectional"},
		{"isolate", "main.py", "x = 1 # \u2067", "bidirectional"},
		{"mark", "main.py", "x = 1 # \u200f", "bidirectional"},
		{"Cyrillic letter in an identifier", "homo.py", "def is_аdmin(): pass\ndef is_admin(): pass\n", "look_alike"},
		{"the same in a string", "homo.py", "if role == 'аdmin': pass\n", "look_alike"},
		{"the same in another language", "homo.js", "let pаyload = 1\n", "look_alike"},
		{"Greek letter in an identifier", "homo.py", "gοοd = 1\n", "look_alike"},
		{"a word in Cyrillic letters beside its twin", "homo.py", "scope = 1\nѕсоре = 2\n", "look_alike"},
		{"the same in another language", "homo.go", "scope := 1\nѕсоре := 2\n", "look_alike"},
		{"a Latin letter in a Cyrillic identifier", "homo.py", "пaроль = 1\n", "look_alike"},
		{"a full-width identifier", "wide.py", "ｅｖａｌ('1')\n", "look_alike"},
		{"a mathematical identifier", "math.py", "𝐞𝐱𝐞𝐜('1')\n", "look_alike"},
		{"the same in an f-string", "math.py", "x = f'{𝐞𝐱𝐞𝐜}'\n", "look_alike"},
		{"the same behind a string", "math.py", "x = '#' ; 𝐞𝐱𝐞𝐜('1')\n", "look_alike"},
		{"the same behind a string of three quotes", "math.py", "'''\n'#\n'''\n𝐞𝐱𝐞𝐜('1')\n", "look_alike"},
		{"far to the right", "right.py", "x = 1" + strings.Repeat(" ", 1500) + "; __import__('os')", "far_right"},
		{"far to the right, by tabs", "right.py", "x = 1" + strings.Repeat("\t", 30) + "; __import__('os')", "far_right"},
		{"far to the right, by wide spaces", "right.py", "x = 1 #" + strings.Repeat("\u3000", 200) + "x", "far_right"},
		{"far down", "down.py", "x = 1\n" + strings.Repeat("\n", 500) + "__import__('os')\n", "far_down"},
		{"a long line", "long.py", strings.Repeat("x;", 2000), "long_line"},
		{"terminal control", "a.py", "evil()\x1b[2Kgood()", "control"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kinds, warnings := kindsOf(t, map[string]string{c.file: c.text})
			if !slices.Contains(kinds, c.kind) {
				t.Errorf("warned of %v, want %q", warnings, c.kind)
			}
			// What is put before it hides nothing, however much it is.
			if behind[c.kind] || c.kind == "long_line" {
				return
			}
			behind[c.kind] = true
			kinds, _ = kindsOf(t, map[string]string{c.file: padded + c.text})
			if !slices.Contains(kinds, c.kind) {
				t.Errorf("behind 5 MB: warned of %v, want %q", kinds, c.kind)
			}
		})
	}
}

// What people write in any language is none of a reviewer's business.
func TestOrdinaryTextIsNotReported(t *testing.T) {
	for name, text := range map[string]string{
		"emoji":                        "print('⚠️ ℹ️ ❤️ 👨‍👩‍👧 🏴󠁧󠁢󠁳󠁣󠁴󠁿 1️⃣ 👍🏽 🇯🇵')\n",
		"Japanese":                     "# 天気　予報を取得する。ＡＰＩとＯＫ、GPUの使用率\nｘ軸 = 1\n名前 = 'ｅｖａｌ'\n",
		"Japanese f-string":            "print(f'ＡＰＩキー: {key} ＯＫ')\n",
		"Japanese docstring":           "\"\"\"ＡＰＩの説明。\nAPI 'x' # y\n\"\"\"\nAPI = 1\n",
		"Chinese":                      "# 这是一个测试 API接口\n",
		"Korean":                       "# 안녕하세요 API키\n",
		"Russian":                      "# Сервер VPN-доступа, SMSка и USBшный кабель\nс = 'с'\nc = 1\n",
		"Greek":                        "Δt = 1; λx = 2; σ_x = 3; μm = 4; νx = 5; α_max = 1\n",
		"Hebrew":                       "# שלום עולם\n",
		"Arabic":                       "# مرحبا بالعالم ۱۳۵۷\n",
		"Persian":                      "# می\u200cخواهم\n",
		"Hindi":                        "# क्\u200dष हिन्दी\n",
		"Thai":                         "# ภาษา\u200bไทย\n",
		"Turkish":                      "# kırmızı ışık\nisim = 'İstanbul'\n",
		"French":                       "# Prévisions\u00a0: météo\n",
		"Vietnamese":                   "# Tiếng Việt\n",
		"decomposed":                   "# cafe\u0301\n",
		"mathematics":                  "# ∀x∈ℝ: 𝐱 ≥ ½\n",
		"a byte order mark":            "\ufeffx = 1\n",
		"line ends of Windows":         "x = 1\r\ny = 2\r\n",
		"UTF-8 by name":                "#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\n",
		"UTF-8 by name for vim":        "# vim: set fileencoding=UTF_8 :\n",
		"a cookie in the third line":   "x = 1\n\n# coding: latin-1\n",
		"deep indentation":             strings.Repeat(" ", 100) + "x = 1\n",
		"trailing blanks":              "x = 1" + strings.Repeat(" ", 500) + "\n",
		"a hundred blank lines":        "x = 1\n" + strings.Repeat("\n", 100) + "y = 1\n",
		"one letter in many languages": "о = 1; o = 2; а = 3; a = 4\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, file := range []string{"main.py", "README.md"} {
				if _, warnings := kindsOf(t, map[string]string{file: text}); len(warnings) != 0 {
					t.Errorf("in %s: warned of %+v, want nothing", file, warnings)
				}
			}
		})
	}
}

func TestEncodings(t *testing.T) {
	for _, c := range []struct {
		file, text string
		want       bool
	}{
		{"a.py", "# -*- coding: utf-7 -*-\n# nothing to see here: +AAo-print()\n", true},
		{"a.py", "#!/usr/bin/python\n# vim: set fileencoding=rot13 :\n", true},
		{"a.py", "# coding=latin-1\n", true},
		{"a.py", "\ufeff# coding: utf_16\n", true},
		{"a.py", "\r# coding: utf-7\n", true},
		{"a.py", "#\r\n#coding:raw_unicode_escape\r\n", true},
		{"a.py", "\f # coding: utf-8-evil\n", true},
		{"a.py", "# " + strings.Repeat("x", 100_000) + " coding: utf-7\n", true},
		{"a.py", "# " + strings.Repeat("x", 2<<20) + "\n# coding: utf-7\n", true}, // too long to look for it
		{"tool", "#!/usr/bin/env python3\n# coding: utf-7\n", true},
		{"a.pyw", "# coding: utf-7\n", true},
		{"a.py", "# coding: utf-8\n# coding: utf-7\n", false}, // the first counts
		{"a.py", "# coding: ascii\n", false},
		{"a.py", "x = 'coding: utf-7'\n", false},
		{"a.txt", "# coding: utf-7\n", false},
	} {
		kinds, _ := kindsOf(t, map[string]string{c.file: c.text})
		if got := slices.Contains(kinds, "encoding"); got != c.want {
			t.Errorf("%s %.60q: encoding told %v, want %v", c.file, c.text, got, c.want)
		}
	}
	t.Run("the file that is run", func(t *testing.T) {
		kinds, _ := kindsOf(t, map[string]string{"ecosystem.json": `{"pack_id":"p","entrypoint":"main.txt"}`, "main.txt": "# coding: utf-7\n"})
		if !slices.Contains(kinds, "encoding") {
			t.Errorf("warned of %v, want encoding", kinds)
		}
	})
}

// NUL makes a file binary, not invisible: what is read as source is searched all the same.
func TestBinarySourceIsSearched(t *testing.T) {
	kinds, _ := kindsOf(t, map[string]string{"a.py": "x = 1\x00\ny = '\u202e'\n"})
	for _, want := range []string{"binary", "bidirectional"} {
		if !slices.Contains(kinds, want) {
			t.Errorf("warned of %v, want %s among them", kinds, want)
		}
	}
	if kinds, _ := kindsOf(t, map[string]string{"a.png": "\x89PNG\x00\u202e\x1b"}); !slices.Equal(kinds, []string{"binary"}) {
		t.Errorf("an image: warned of %v, want binary alone", kinds)
	}
}

// Names that look the same.
func TestNamesThatLookTheSame(t *testing.T) {
	for _, pair := range [][2]string{
		{"a.py", "a\U000e0100.py"}, {"a.py", "a\u200b.py"}, {"scope.py", "ѕсоре.py"}, {"a b.py", "a\u00a0b.py"}, {"ａ.py", "a.py"}, {"util.py", "utiI.py"},
	} {
		_, warnings := kindsOf(t, map[string]string{pair[0]: "x", pair[1]: "x"})
		if !slices.ContainsFunc(warnings, func(w review.Warning) bool { return w.Kind == "look_alike" && strings.Contains(w.Detail, "looks like") }) {
			t.Errorf("%+q: warned of %+v, want look_alike", pair, warnings)
		}
	}
}

// What there is much of for good reasons is one line a folder, and never hides what is worse.
func TestBulkDoesNotBury(t *testing.T) {
	m, files := &memory{}, map[string]string{"zz_main.py": "x = 1 # \u202e\n", "a.png": "\x00", ".git/HEAD": "x"}
	for i := range 510 {
		files[fmt.Sprintf("0/.cfg%d", i)] = "x"
		files[fmt.Sprintf(".git/objects/%02x/%d", i%256, i)] = "\x00"
	}
	r, err := review.Of(review.Input{Now: scan(t, m, files), Open: m.open})
	if err != nil {
		t.Fatal(err)
	}
	if r.Warnings[0].Kind != "bidirectional" || r.Warnings[0].Path != "zz_main.py" {
		t.Errorf("first warning %+v, want that of zz_main.py", r.Warnings[0])
	}
	if len(r.Warnings) > 6 || r.Truncated {
		t.Errorf("%d warnings, truncated %v, want one a kind and folder", len(r.Warnings), r.Truncated)
	}
	for kind, want := range map[string]int{"hidden": 511, "binary": 511, "bidirectional": 1} {
		if got := r.WarningCounts[kind]; got != want {
			t.Errorf("%d warnings of %s counted, want %d", got, kind, want)
		}
	}
	if !slices.ContainsFunc(r.Warnings, func(w review.Warning) bool { return w.Path == ".git" && w.Kind == "binary" && w.Count == 510 }) {
		t.Errorf("warnings %+v, want one of .git with a count of 510", r.Warnings)
	}
}

// A flood is cut, from its mildest end, and says so; those of one kind can be asked for.
func TestFloodIsCutFromItsMildEnd(t *testing.T) {
	m, files := &memory{}, map[string]string{}
	for i := range 600 {
		files[fmt.Sprintf("d%d/run.sh", i)] = "x"
		files[fmt.Sprintf("e%d/z.py", i)] = "\u200b"
	}
	files["z.py"] = "\u202e"
	in := review.Input{Now: scan(t, m, files), Open: m.open}
	r, err := review.Of(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Warnings) != 500 || !r.Truncated || r.Warnings[0].Kind != "bidirectional" || r.Warnings[499].Kind != "invisible" ||
		r.WarningCounts["invisible"] != 600 || r.WarningCounts["executable"] != 600 {
		t.Errorf("%d warnings, truncated %v, counts %v; want 500, truncated, and 600 counted of each", len(r.Warnings), r.Truncated, r.WarningCounts)
	}
	in.Only = "executable"
	if r, err = review.Of(in); err != nil || len(r.Warnings) != 500 || r.Warnings[0].Kind != "executable" || r.WarningCounts["invisible"] != 600 {
		t.Errorf("of one kind: %d warnings, %v; want 500, executable first, and 600 invisible counted", len(r.Warnings), err)
	}
}
