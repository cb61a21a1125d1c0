package text_test

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rumi-ai/rumi/libs/text"
)

func TestOrdinaryTextPasses(t *testing.T) {
	for name, line := range map[string]string{
		"nothing":                    "",
		"ASCII":                      "def main(): return 'x' # ~",
		"ideographic space":          "天気\u3000予報を取得する",
		"no-break space":             "Prévisions\u00a0: météo",
		"narrow no-break space":      "1\u202f000\u202f€",
		"decomposed":                 "cafe\u0301 がぎ",
		"Hebrew":                     "שלום עולם",
		"Arabic":                     "مرحبا بالعالم",
		"Persian":                    "می\u200cخواهم",
		"Persian, joiner at the end": "۱۳۵۷ ه\u200d",
		"Hindi":                      "क्\u200dष क्\u200cष",
		"Bengali":                    "র\u200d\u09cdয",
		"Sinhala":                    "ශ්\u200dරී ලංකාව",
		"Malayalam":                  "ന്\u200d",
		"Khmer":                      "ភាសា\u200bខ្មែរ",
		"Thai":                       "ภาษา\u200bไทย",
		"Mongolian":                  "ᠮᠣᠩᠭᠣᠯ\u180e\u1820 ᠭ\u180b",
		"Korean":                     "안녕하세요",
		"Vietnamese":                 "Tiếng Việt",
		"Arabic number sign":         "\u0600١٢",
		"ideograph of Unicode 15.1":  "\U0002ebf0",
		"ideograph of Unicode 17":    "\U000323b0",
		"braille":                    "⠃⠗⠁⠊⠇⠇⠑\u2800⠞⠑⠭⠞",
		"emoji":                      "🌤 ☀ 🎉 🇯🇵",
		"emoji style":                "⚠\ufe0f ℹ\ufe0f ©\ufe0f ❤\ufe0f",
		"text style":                 "☀\ufe0e",
		"keycap":                     "1\ufe0f\u20e3 #\ufe0f\u20e3",
		"family":                     "👨\u200d👩\u200d👧\u200d👦",
		"skin tones":                 "👩🏽\u200d💻 🧑🏻\u200d❤\ufe0f\u200d💋\u200d🧑🏿",
		"rainbow flag":               "🏳\ufe0f\u200d🌈",
		"pirate flag":                "🏴\u200d☠\ufe0f",
		"detective":                  "🕵🏻\u200d♂\ufe0f",
		"broken chain":               "⛓\ufe0f\u200d💥",
		"flag of Scotland":           "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
		"emoji of a later Unicode":   "\U0001fadf\U0001fae9",
		"mathematics":                "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋",
		"combining, many":            "a\u0300\u0301\u0302",
		"replacement character":      "\ufffd",
	} {
		t.Run(name, func(t *testing.T) {
			for c := range text.Hidden(line) {
				t.Errorf("Hidden(%+q) has %v at %d, want nothing", line, c, c.Offset)
			}
			if got := text.Escape(line); got != line {
				t.Errorf("Escape(%+q) = %+q, want it as it is", line, got)
			}
		})
	}
}

func TestHidden(t *testing.T) {
	for name, c := range map[string]struct {
		line   string
		offset int
		want   string
	}{
		"NUL":                              {"a\x00", 1, "U+0000 (control character)"},
		"escape":                           {"\x1b[31m", 0, "U+001B (control character)"},
		"delete":                           {"a\x7f", 1, "U+007F (control character)"},
		"C1":                               {"a\u009b", 1, "U+009B (control character)"},
		"line feed":                        {"a\nb", 1, "U+000A (control character)"},
		"line separator":                   {"a\u2028b", 1, "U+2028 (line separator)"},
		"paragraph separator":              {"a\u2029b", 1, "U+2029 (line separator)"},
		"override":                         {"a\u202eb", 1, "U+202E (bidirectional control)"},
		"isolate":                          {"a\u2066b", 1, "U+2066 (bidirectional control)"},
		"mark":                             {"a\u200fb", 1, "U+200F (bidirectional control)"},
		"Arabic mark":                      {"a\u061cb", 1, "U+061C (bidirectional control)"},
		"zero width space":                 {"a\u200bb", 1, "U+200B (invisible character)"},
		"zero width space behind Thai":     {"ไ\u200bb", 3, "U+200B (invisible character)"},
		"joiner between letters":           {"a\u200db", 1, "U+200D (invisible character)"},
		"joiner behind an emoji":           {"🌤\u200db", 4, "U+200D (invisible character)"},
		"joiner before an emoji":           {"a\u200d🌤", 1, "U+200D (invisible character)"},
		"two joiners between emoji":        {"👨\u200d\u200d👩", 4, "U+200D (invisible character)"},
		"two non-joiners in Persian":       {"ی\u200c\u200c", 5, "U+200C (invisible character)"},
		"non-joiner between Latin letters": {"a\u200cb", 1, "U+200C (invisible character)"},
		"word joiner":                      {"a\u2060b", 1, "U+2060 (invisible character)"},
		"invisible times":                  {"a\u2062b", 1, "U+2062 (invisible character)"},
		"reserved ignorable":               {"a\u2065b", 1, "U+2065 (invisible character)"},
		"byte order mark":                  {"a\ufeffb", 1, "U+FEFF (invisible character)"},
		"soft hyphen":                      {"a\u00adb", 1, "U+00AD (invisible character)"},
		"grapheme joiner":                  {"a\u034fb", 1, "U+034F (invisible character)"},
		"Hangul filler":                    {"a\u3164b", 1, "U+3164 (invisible character)"},
		"half-width Hangul filler":         {"a\uffa0b", 1, "U+FFA0 (invisible character)"},
		"Hangul choseong filler":           {"a\u115fb", 1, "U+115F (invisible character)"},
		"Khmer inherent vowel":             {"a\u17b4b", 1, "U+17B4 (invisible character)"},
		"Mongolian vowel separator":        {"a\u180eb", 1, "U+180E (invisible character)"},
		"interlinear annotation":           {"a\ufff9b", 1, "U+FFF9 (invisible character)"},
		"music beam":                       {"a\U0001d173b", 1, "U+1D173 (invisible character)"},
		"tag":                              {"a\U000e0061b", 1, "U+E0061 (invisible character)"},
		"tag behind a flag":                {"🏴\U000e0061", 4, "U+E0061 (invisible character)"},
		"tag behind a flag's end":          {"🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f\U000e0061", 28, "U+E0061 (invisible character)"},
		"language tag":                     {"a\U000e0001b", 1, "U+E0001 (invisible character)"},
		"reserved plane 14":                {"a\U000e0fffb", 1, "U+E0FFF (invisible character)"},
		"selector 17":                      {"a\U000e0100b", 1, "U+E0100 (variation selector)"},
		"selector 256":                     {"a\U000e01efb", 1, "U+E01EF (variation selector)"},
		"selector 17 behind an emoji":      {"🌤\U000e0100", 4, "U+E0100 (variation selector)"},
		"selector 1":                       {"b\ufe00.py", 1, "U+FE00 (variation selector)"},
		"selector 16 behind a letter":      {"a\ufe0f", 1, "U+FE0F (variation selector)"},
		"selector 16 at the beginning":     {"\ufe0fa", 0, "U+FE0F (variation selector)"},
		"two selectors behind an emoji":    {"⚠\ufe0f\ufe0f", 6, "U+FE0F (variation selector)"},
		"selector 16 behind a digit":       {"1\ufe0f", 1, "U+FE0F (variation selector)"},
		"Mongolian selector elsewhere":     {"a\u180b", 1, "U+180B (variation selector)"},
		"braille blank":                    {"a\u2800b", 1, "U+2800 (blank-looking character)"},
		"null notehead":                    {"a\U0001d159b", 1, "U+1D159 (blank-looking character)"},
		"Khitan filler":                    {"a\U00016fe4b", 1, "U+16FE4 (blank-looking character)"},
		"private use":                      {"a\ue000b", 1, "U+E000 (private use character)"},
		"private use, plane 15":            {"a\U000f0000b", 1, "U+F0000 (private use character)"},
		"private use, plane 16":            {"a\U0010fffdb", 1, "U+10FFFD (private use character)"},
		"unassigned":                       {"a\u0378b", 1, "U+0378 (unassigned character)"},
		"unassigned plane":                 {"a\U00050000b", 1, "U+50000 (unassigned character)"},
		"noncharacter":                     {"a\ufffeb", 1, "U+FFFE (unassigned character)"},
		"noncharacter, Arabic block":       {"a\ufdd0b", 1, "U+FDD0 (unassigned character)"},
		"invalid byte":                     {"a\xffb", 1, "byte 0xFF (invalid UTF-8)"},
		"surrogate":                        {"a\xed\xa0\x80", 1, "byte 0xED (invalid UTF-8)"},
		"overlong":                         {"a\xc0\xaf", 1, "byte 0xC0 (invalid UTF-8)"},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := text.FirstHidden(c.line, "")
			if !ok || got.String() != c.want || got.Offset != c.offset {
				t.Errorf("FirstHidden(%+q) = %v at %d, %v, want %s at %d", c.line, got, got.Offset, ok, c.want, c.offset)
			}
			if escaped := text.Escape(c.line); !text.IsLine(escaped) {
				t.Errorf("Escape(%+q) = %+q, in which something hides still", c.line, escaped)
			}
		})
	}
}

func TestFirstHiddenAllows(t *testing.T) {
	if got, ok := text.FirstHidden("a\r\n\tb", "\r\n\t"); ok {
		t.Errorf("FirstHidden with line breaks and tabs allowed has %v, want nothing", got)
	}
	if got, ok := text.FirstHidden("a\xff", "\ufffd"); !ok {
		t.Errorf("FirstHidden of an invalid byte = %v, %v: allowed as if it were U+FFFD", got, ok)
	}
}

func TestEscape(t *testing.T) {
	for s, want := range map[string]string{
		"a\n\tb\x1b":           `a\n\tb\x1b`,
		"天気\u200b.py":          `天気\u200b.py`,
		"a\x00\xffé":           `a\x00\xffé`,
		"x\U000e0100":          `x\U000e0100`,
		"🌤\ufe0f\ufe0f \u00a0": "🌤\ufe0f\\ufe0f \u00a0",
	} {
		if got := text.Escape(s); got != want {
			t.Errorf("Escape(%+q) = %+q, want %+q", s, got, want)
		}
	}
}

// FuzzEscape: Hidden walks over every byte once, and what Escape gives hides nothing and keeps what hid nothing.
func FuzzEscape(f *testing.F) {
	f.Add("a\u200b⚠\ufe0f\xff🏴\U000e0067")
	f.Fuzz(func(t *testing.T, s string) {
		end := 0
		for i := 0; i < len(s); {
			_, size, kind := text.Classify(s, i)
			if size < 1 || kind == text.Invalid != (!utf8.ValidString(s[i:i+size])) {
				t.Fatalf("Classify(%+q, %d) has size %d and kind %q", s, i, size, kind)
			}
			i += size
			end = i
		}
		if end != len(s) {
			t.Fatalf("Classify walks over %d bytes of %+q, want %d", end, s, len(s))
		}
		escaped := text.Escape(s)
		if !text.IsLine(escaped) {
			t.Fatalf("Escape(%+q) = %+q, in which something hides still", s, escaped)
		}
	})
}

// A text costs in proportion to its length, whatever it is made of: eight times the text may not take 30 times as long.
func TestCostIsLinear(t *testing.T) {
	for name, piece := range map[string]string{
		"tags behind a flag": "\U000e0067", "tags": "\U000e0041", "blanks of braille": "\u2800", "joiners": "\u200d", "selectors": "\ufe0f", "flags": "\U0001f3f4\U000e0067",
	} {
		cost := func(n int) time.Duration {
			s := "\U0001f3f4" + strings.Repeat(piece, n)
			least := time.Duration(math.MaxInt64)
			for range 5 { // another program may have the processor for a while
				began := time.Now()
				for range text.Hidden(s) {
				}
				least = min(least, time.Since(began))
			}
			return least
		}
		if short, long := cost(4<<10), cost(32<<10); long > 30*short {
			t.Errorf("%s: %v for 32 Ki, %v for 4 Ki, want about 8 times as long", name, long, short)
		}
	}
}
