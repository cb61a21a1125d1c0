package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/jsonpos"
	"github.com/rumi-ai/rumi/libs/text"
)

// File is the name of a pack's descriptor; it lies in the pack's folder or in its folder "backend".
const File = "ecosystem.json"

// Bounds of a descriptor. Lengths are in bytes.
const (
	MaxDescriptor  = 1 << 20 // of the whole file
	maxIdentity    = 256
	maxVersion     = 64
	maxDescription = 4096
	maxList        = 200 // entries of any list
	maxName        = 253 // of an entry: a domain name at its longest
	maxArgument    = 4096
)

// ErrNone is in the error of ReadDescriptor for a folder without a descriptor, which is therefore no pack.
var ErrNone = errors.New("no " + File)

// InvalidError is the error of a descriptor that can be read and is wrong.
type InvalidError struct {
	Name string // of the file, relative to the pack's folder
	Err  error  // what is wrong, and in which line and column if the problem has a position: "line 3, column 27: a comma before }"
}

func (e *InvalidError) Error() string {
	if strings.HasPrefix(e.Err.Error(), "line ") {
		return e.Name + " " + e.Err.Error()
	}
	return e.Name + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *InvalidError) Unwrap() error { return e.Err }

// NoIdentity is the warning about a pack whose descriptor has no pack_identity, which contract.md requires.
const NoIdentity = "its " + File + " has no pack_identity: it can't be approved before it has"

// Descriptor is a pack's ecosystem.json: the pack's own statements. Nothing of it grants anything.
type Descriptor struct {
	PackID          ID             `json:"pack_id"`
	PackIdentity    string         `json:"pack_identity"` // where it comes from ("github:author/repo"); an update must say the same
	Version         string         `json:"version"`
	Description     string         `json:"description"`
	RequiredSecrets []string       `json:"required_secrets"` // keys, for the reviewer
	RequiredNetwork Network        `json:"required_network"` // for the reviewer
	Connectivity    jsontext.Value `json:"connectivity"`     // what it provides to and requires of other packs, as it is written
	Entrypoint      Entrypoint     `json:"entrypoint"`
	Resources       Resources      `json:"resources"`
	Restart         Restart        `json:"restart" api:"enum="`

	// Base is where the descriptor lies: "" for the pack's folder, "backend" for the folder in it. Handlers lie beside it.
	Base string `json:"-"`

	// Unknown are the members that Rumi doesn't know, in order: most often misspelt. Warnings reports them.
	Unknown []string `json:"-"`
}

// Network lists the domains and ports that a pack says it wants to reach.
type Network struct {
	AllowedDomains []string `json:"allowed_domains"`
	AllowedPorts   []uint16 `json:"allowed_ports"`
}

// Entrypoint is the program that a started container runs. At most one of the fields is set; neither means that it idles.
type Entrypoint struct {
	File string   // a Python file, a clean path relative to the pack's folder: "backend/main.py"
	Argv []string // a command and its arguments
}

// IsZero says whether there is nothing to run.
func (e Entrypoint) IsZero() bool { return e.File == "" && len(e.Argv) == 0 }

// UnmarshalJSONFrom reads a string or an array of strings.
func (e *Entrypoint) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	switch dec.PeekKind() {
	case 'n':
		return dec.SkipValue()
	case '[':
		return json.UnmarshalDecode(dec, &e.Argv)
	default:
		return json.UnmarshalDecode(dec, &e.File)
	}
}

// MarshalJSONTo writes what UnmarshalJSONFrom reads; null for the zero value.
func (e Entrypoint) MarshalJSONTo(enc *jsontext.Encoder) error {
	switch {
	case len(e.Argv) > 0:
		return json.MarshalEncode(enc, e.Argv)
	case e.File != "":
		return enc.WriteToken(jsontext.String(e.File))
	default:
		return enc.WriteToken(jsontext.Null)
	}
}

// ReadDescriptor reads the descriptor of the pack whose folder root is: ecosystem.json, or else backend/ecosystem.json.
// The error is ErrNone where there is neither; any other says in words meant for the operator what is wrong with it.
func ReadDescriptor(root *os.Root) (Descriptor, error) {
	for _, base := range []string{"", "backend"} {
		if base != "" {
			info, err := root.Lstat(base)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // a mount that died, say: the descriptor may well be in it
				return Descriptor{}, fmt.Errorf("read %s: %w", base, err)
			}
			if err != nil || !info.IsDir() {
				continue
			}
		}
		name := path.Join(base, File)
		data, err := readRegular(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Descriptor{}, fmt.Errorf("read %s: %w", name, err)
		}
		d, err := ParseDescriptor(data)
		if err != nil {
			return Descriptor{}, &InvalidError{name, err}
		}
		d.Base = base
		return d, nil
	}
	return Descriptor{}, ErrNone
}

// readRegular reads a file of at most MaxDescriptor bytes that is neither a link nor a device nor anything that blocks.
func readRegular(root *os.Root, name string) ([]byte, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	// Between the two calls it may have become something else: a FIFO must not block, the rest is seen below.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxDescriptor+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxDescriptor {
		return nil, fmt.Errorf("larger than %d bytes", MaxDescriptor)
	}
	return data, nil
}

// ParseDescriptor reads a descriptor from its bytes. Unknown members are allowed, as is a byte order mark at the beginning, which some
// editors write; a duplicate name, invalid UTF-8, a wrong type and a value out of bounds are not. The error has the line and
// column, unless it is about the whole.
func ParseDescriptor(data []byte) (Descriptor, error) {
	if len(data) > MaxDescriptor {
		return Descriptor{}, fmt.Errorf("larger than %d bytes", MaxDescriptor)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if encoding := otherEncoding(data); encoding != "" {
		return Descriptor{}, fmt.Errorf("it is in %s; save it as UTF-8", encoding)
	}
	switch trimmed := bytes.TrimLeft(data, " \t\r\n"); {
	case len(trimmed) == 0:
		return Descriptor{}, errors.New("it is empty; a JSON object is needed")
	case trimmed[0] == '[' || trimmed[0] == '"' || bytes.Equal(bytes.TrimRight(trimmed, " \t\r\n"), []byte("null")):
		return Descriptor{}, errors.New("not a JSON object")
	}
	var d Descriptor
	if err := json.Unmarshal(data, &d); err != nil {
		if semantic, ok := errors.AsType[*json.SemanticError](err); ok && semantic.JSONPointer != "" {
			return Descriptor{}, typeError(data, semantic)
		}
		return Descriptor{}, errors.New(jsonpos.Describe(data, err))
	}
	d.Unknown = UnknownMembers(data, knownMembers)
	return d, d.check()
}

// otherEncoding names the encoding of a text whose first bytes show that it isn't UTF-8; "" otherwise.
func otherEncoding(data []byte) string {
	switch {
	case len(data) < 2:
		return ""
	case data[0] == 0xff && data[1] == 0xfe, data[0] != 0 && data[1] == 0:
		return "UTF-16 (little endian)"
	case data[0] == 0xfe && data[1] == 0xff, data[0] == 0 && data[1] != 0:
		return "UTF-16 (big endian)"
	}
	return ""
}

// typeError says of a member that its value has the wrong type, or that the member is unknown where no unknown one is allowed.
func typeError(data []byte, err *json.SemanticError) error {
	field := strings.ReplaceAll(strings.TrimPrefix(string(err.JSONPointer), "/"), "/", ".")
	line, column := jsonpos.At(data, err.ByteOffset)
	where := fmt.Sprintf("line %d, column %d: %q", line, column, cut(field))
	if errors.Is(err, json.ErrUnknownName) {
		return fmt.Errorf("%s is unknown", where)
	}
	return fmt.Errorf("%s has the wrong type%s", where, expectedType(field))
}

// expectedType says what type a member's value must have.
func expectedType(field string) string {
	name, _, _ := strings.Cut(field, ".")
	switch name {
	case "pack_id", "pack_identity", "version", "description", "restart":
		return `: want a text, such as "1.0"`
	case "required_secrets":
		return `: want a list of keys, such as ["OPENAI_API_KEY"]`
	case "required_network":
		return `: want {"allowed_domains": ["api.example.com"], "allowed_ports": [443]}`
	case "entrypoint":
		return `: want a file, such as "main.py", or a command, such as ["python3", "main.py"]`
	case "resources":
		return `: want numbers, such as {"memory_mb": 256, "cpus": 0.5, "pids": 64}`
	}
	return ""
}

func (d *Descriptor) check() error {
	if !valid(string(d.PackID)) {
		return fault.Invalid("Invalid pack_id: %q (%s needs a \"pack_id\" of 1 to 64 of a-z, A-Z, 0-9, _ and -; spelt so, in small letters)",
			cut(string(d.PackID)), File).With("invalid_pack_id")
	}
	return errors.Join(
		line("pack_identity", d.PackIdentity, maxIdentity),
		line("version", d.Version, maxVersion),
		prose("description", d.Description, maxDescription),
		list("required_secrets", d.RequiredSecrets),
		list("required_network.allowed_domains", d.RequiredNetwork.AllowedDomains),
		count("required_network.allowed_ports", len(d.RequiredNetwork.AllowedPorts)),
		d.Entrypoint.check(),
		d.Resources.check(),
		d.Restart.check(),
	)
}

func (e Entrypoint) check() error {
	if e.File != "" {
		if e.File != path.Clean(e.File) || !filepath.IsLocal(e.File) || e.File == "." || strings.ContainsAny(e.File, "\\\x00") || len(e.File) > maxArgument {
			return errors.New("\"entrypoint\" must be the path of a file in the pack")
		}
		return line("entrypoint", e.File, maxArgument)
	}
	if len(e.Argv) > 0 && e.Argv[0] == "" {
		return errors.New("\"entrypoint\" must name a command")
	}
	for _, argument := range e.Argv {
		if len(argument) > maxArgument || strings.ContainsRune(argument, 0) {
			return fmt.Errorf("an argument of \"entrypoint\" is longer than %d bytes or contains NUL", maxArgument)
		}
	}
	return count("entrypoint", len(e.Argv))
}

func count(field string, n int) error {
	if n > maxList {
		return fmt.Errorf("%q has more than %d entries", field, maxList)
	}
	return nil
}

func list(field string, values []string) error {
	for _, v := range values {
		if err := line(field, v, maxName); err != nil {
			return err
		}
	}
	return count(field, len(values))
}

// line wants one printable line.
func line(field, value string, limit int) error {
	if len(value) > limit {
		return fmt.Errorf("%q is longer than %d bytes", field, limit)
	}
	return printable(field, value, "")
}

// prose may have several lines.
func prose(field, value string, limit int) error {
	if len(value) > limit {
		return fmt.Errorf("%q is longer than %d bytes", field, limit)
	}
	return printable(field, value, "\n\r\t")
}

// printable wants a text in which nothing hides but what is allowed.
func printable(field, value, allowed string) error {
	if c, hidden := text.FirstHidden(value, allowed); hidden {
		return fmt.Errorf("%q contains characters that can't be printed: %v is character %d of it", field, c, utf8.RuneCountInString(value[:c.Offset])+1)
	}
	return nil
}

// cut keeps a stranger's string short enough for a message.
func cut(s string) string { return text.Clip(s, 2*MaxID) }
