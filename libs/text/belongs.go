package text

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	nonJoiner      = '\u200c'
	joiner         = '\u200d'
	zeroWidthSpace = '\u200b'
	textStyle      = '\ufe0e' // variation selector 15
	emojiStyle     = '\ufe0f' // variation selector 16
	keycap         = '\u20e3'
	vowelSeparator = '\u180e' // Mongolian
	brailleBlank   = '\u2800'

	blackFlag = '\U0001f3f4'
	tagFirst  = 0xe0020
	tagCancel = 0xe007f
)

// blank are characters of visible categories that are drawn as nothing. Others are default ignorable.
var blank = &unicode.RangeTable{R32: []unicode.Range32{
	{Lo: 0x16fe4, Hi: 0x16fe4, Stride: 1}, // Khitan small script filler
	{Lo: 0x1d159, Hi: 0x1d159, Stride: 1}, // musical symbol null notehead
}}

// laterIdeographs are assigned in a later version of Unicode than package unicode knows (CJK extensions H to J).
var laterIdeographs = &unicode.RangeTable{R32: []unicode.Range32{
	{Lo: 0x2ebf0, Hi: 0x2ee5d, Stride: 1},
	{Lo: 0x31350, Hi: 0x33479, Stride: 1},
}}

// joiningScripts are the scripts in whose words joiners are written: those whose letters join, and those with conjuncts.
var joiningScripts = []*unicode.RangeTable{
	unicode.Arabic, unicode.Syriac, unicode.Mandaic, unicode.Nko, unicode.Mongolian, unicode.Phags_Pa, unicode.Adlam, unicode.Hanifi_Rohingya,
	unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi, unicode.Gujarati, unicode.Oriya, unicode.Tamil, unicode.Telugu,
	unicode.Kannada, unicode.Malayalam, unicode.Sinhala, unicode.Khmer, unicode.Myanmar, unicode.Tibetan, unicode.Balinese,
	unicode.Javanese, unicode.Sundanese, unicode.Meetei_Mayek, unicode.Chakma, unicode.Brahmi, unicode.Grantha,
}

// unspacedScripts are the scripts that write no spaces between words and mark their borders by U+200B.
var unspacedScripts = []*unicode.RangeTable{
	unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar, unicode.Tibetan, unicode.Javanese, unicode.Balinese, unicode.Tai_Tham, unicode.New_Tai_Lue,
}

// selectorBelongs says whether a variation selector chooses how the character before it looks: 15 or 16 behind an emoji or in a
// keycap, one of Mongolian's own behind one of its letters.
func selectorBelongs(r rune, before, after string) bool {
	base := last(before)
	switch {
	case r >= '\u180b' && r <= '\u180d', r == '\u180f':
		return unicode.In(base, unicode.Mongolian) && unicode.IsLetter(base)
	case r != textStyle && r != emojiStyle:
		return false
	case strings.ContainsRune("#*0123456789", base):
		return r == emojiStyle && first(after) == keycap
	default:
		return unicode.Is(pictographic, base)
	}
}

// joinerBelongs says whether a joiner stands between two emoji, or behind a letter or a mark of a script that has joiners in its
// words, and likewise a zero width space between words that are written without spaces.
func joinerBelongs(r rune, before, after string) bool {
	base := last(before)
	switch r {
	case joiner:
		return afterEmoji(before) && unicode.Is(pictographic, first(after)) || unicode.In(base, joiningScripts...) && !ignorable(base)
	case nonJoiner:
		return unicode.In(base, joiningScripts...) && !ignorable(base)
	case zeroWidthSpace:
		return unicode.In(base, unspacedScripts...) && unicode.In(first(after), unspacedScripts...)
	case vowelSeparator:
		return unicode.In(base, unicode.Mongolian) && unicode.IsLetter(first(after))
	}
	return false
}

// afterEmoji says whether before ends with an emoji, with or without its style and its skin tone.
func afterEmoji(before string) bool {
	base, size := utf8.DecodeLastRuneInString(before)
	if base == emojiStyle || base >= 0x1f3fb && base <= 0x1f3ff {
		base = last(before[:len(before)-size])
	}
	return unicode.Is(pictographic, base)
}

// flags are the names that tags behind a black flag may spell; no others are in use.
var flags = []string{"gbeng", "gbsct", "gbwls"}

// tagBelongs says whether r is one of the tags behind a black flag that make it another flag.
func tagBelongs(r rune, before, after string) bool {
	if r < tagFirst || r > tagCancel {
		return false
	}
	// Only as much of the text as a flag takes is searched. Without the bound, a pack could write a file of nothing but tags, and
	// the search around each of them would take the square of its length.
	const run = 4 * len("gbeng") // bytes of tags, without the end
	before = before[max(0, len(before)-run-len(string(blackFlag))):]
	at := strings.LastIndex(before, string(blackFlag))
	if at < 0 {
		return false
	}
	whole := before[at+len(string(blackFlag)):] + string(r) + after[:min(len(after), run+len(string(rune(tagCancel))))]
	for _, flag := range flags {
		if strings.HasPrefix(whole, tags(flag)) {
			return true
		}
	}
	return false
}

// tags writes a flag's name in tags, with the end.
func tags(name string) string {
	var b strings.Builder
	for _, c := range name {
		b.WriteRune(tagFirst - ' ' + c)
	}
	b.WriteRune(tagCancel)
	return b.String()
}

// brailleRun is how far around a blank of braille its dots are looked for, in bytes.
const brailleRun = 300

// brailleAround says whether a blank stands among braille that is not blank, as a space does among letters.
func brailleAround(before, after string) bool {
	before = strings.TrimRight(before[max(0, len(before)-brailleRun):], string(brailleBlank))
	after = strings.TrimLeft(after[:min(len(after), brailleRun)], string(brailleBlank))
	return unicode.Is(unicode.Braille, last(before)) || unicode.Is(unicode.Braille, first(after))
}

func first(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

func last(s string) rune {
	r, _ := utf8.DecodeLastRuneInString(s)
	return r
}
