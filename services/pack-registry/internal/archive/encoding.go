package archive

import (
	"hash/crc32"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/text"
)

// codePages are the encodings that systems write names in when they don't write UTF-8.
var codePages = append([]encoding.Encoding{
	japanese.ShiftJIS, simplifiedchinese.GBK, simplifiedchinese.GB18030, traditionalchinese.Big5, korean.EUCKR, japanese.EUCJP,
}, charmap.All...)

// unicodeName reads an Info-ZIP Unicode Path field: the name in UTF-8 of an entry whose header has it in a code page. ok is false
// where the field is not about this name, or where the name in the header is another one in every code page: readers that know the
// field and readers that don't must see one name.
func unicodeName(field []byte, raw string) (name string, ok bool) {
	if len(field) < 5 {
		return "", false
	}
	name = string(field[5:])
	if name == raw {
		return name, true
	}
	if field[0] != 1 || little.Uint32(field[1:]) != crc32.ChecksumIEEE([]byte(raw)) || utf8.ValidString(raw) || !utf8.ValidString(name) {
		return "", false
	}
	for _, page := range codePages {
		if decoded, err := page.NewDecoder().String(raw); err == nil && decoded == name {
			return name, true
		}
	}
	return "", false
}

// notUTF8 refuses a name in a code page. Windows' Explorer writes such names; the most frequent one is guessed for the message, and
// for nothing else: a guess must not decide what a file is called.
func notUTF8(name string) error {
	guess := ""
	if decoded, err := japanese.ShiftJIS.NewDecoder().String(name); err == nil && text.IsLine(decoded) && japaneseText(decoded) {
		guess = "; as Japanese (CP932) it is '" + shorten(decoded) + "'"
	}
	return fault.Invalid("Invalid name in archive: %s (it is not UTF-8%s. Make the archive again with names in UTF-8: 7-Zip with the parameter cu=on, PowerShell's Compress-Archive, or python3 -m zipfile -c)",
		printable(name), guess).With("archive_invalid_name")
}

// japaneseText says whether some of a text is Japanese and all of its letters are that or ASCII.
func japaneseText(s string) bool {
	some := false
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana) && (r < 0xff00 || r > 0xffef):
			some = true
		case r >= utf8.RuneSelf && unicode.IsLetter(r) && r != 'ー':
			return false
		}
	}
	return some
}
