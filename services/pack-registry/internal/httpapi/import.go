package httpapi

import (
	"bufio"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"time"

	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// Bounds of an upload.
const (
	maxOverhead = 1 << 20 // bytes of the form beside the file
	maxParts    = 8
	uploadIdle  = 30 * time.Second // in which something has to arrive
)

// importPack takes a path in JSON, or an upload in a form with the file in its field "file".
func (p Packs) importPack(w http.ResponseWriter, r *http.Request) error {
	var st staging.Staging
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && kind == "multipart/form-data" {
		st, err = p.importUpload(w, r, parameters["boundary"])
	} else if err = notBare(r, kind); err == nil {
		var request api.ImportRequest
		if request, err = rpc.Decode[api.ImportRequest](r); err == nil {
			st, err = p.Stages.ImportPath(r.Context(), request.Path, request.Notes)
		}
	}
	if err != nil {
		return err
	}
	return rpc.WriteData(w, imported(st))
}

// notBare refuses an archive that is the whole body (curl --data-binary), by the type that the sender says it has or by how it begins.
func notBare(r *http.Request, kind string) error {
	body := bufio.NewReader(r.Body)
	begins, err := body.Peek(len("PK"))
	r.Body = struct {
		io.Reader
		io.Closer
	}{body, r.Body}
	if archiveTypes[kind] || err == nil && string(begins) == "PK" {
		return fault.Invalid("Invalid JSON in request body: an archive is sent as the field 'file' of a form (curl -F file=@my_pack.zip)").With("invalid_json")
	}
	return nil
}

// archiveTypes are media types of bodies that are an archive, or a file of any kind.
var archiveTypes = map[string]bool{
	"application/zip": true, "application/x-zip-compressed": true, "application/x-zip": true, "application/octet-stream": true, "application/gzip": true, "application/x-tar": true,
}

func imported(st staging.Staging) api.ImportResponse {
	meta := api.ImportMeta{CreatedAt: st.CreatedAt, ExpiresAt: st.CreatedAt.Add(staging.Lifetime), Actor: st.Actor, Notes: st.Notes}
	for _, one := range st.Packs {
		meta.Packs = append(meta.Packs, api.ImportedPack{PackID: string(one.Declared), PackIdentity: one.Identity, Version: one.Version})
		for _, warning := range one.Warnings {
			meta.Warnings = append(meta.Warnings, one.Dir+": "+warning)
		}
	}
	meta.Warnings = append(meta.Warnings, st.Warnings...)
	return api.ImportResponse{
		Success: true, StagingID: st.ID, StagingDir: stagingDir(st.ID), InputType: st.InputType, SourcePath: st.SourcePath,
		DetectedPackIDs: staging.PackIDs(st), IsMultiPack: st.Multi, Meta: meta,
	}
}

// importUpload streams the file to the disk while it arrives. "notes" may stand before or behind it.
func (p Packs) importUpload(w http.ResponseWriter, r *http.Request, boundary string) (staging.Staging, error) {
	if boundary == "" {
		return staging.Staging{}, fault.Invalid("Invalid form in request body: its Content-Type names no boundary; leave that header to the client").With("invalid_form")
	}
	body := &arriving{
		from:     http.MaxBytesReader(w, r.Body, staging.MaxUpload+maxOverhead),
		deadline: http.NewResponseController(w).SetReadDeadline,
	}
	form := multipart.NewReader(bufio.NewReaderSize(body, 64<<10), boundary)
	notes, file, err := next(form, 0)
	if err != nil {
		return staging.Staging{}, err
	}
	if file == nil {
		return staging.Staging{}, fault.Invalid("Missing 'file' (curl -F file=@my_pack.zip)").With("missing_file")
	}
	return p.Stages.ImportUpload(r.Context(), file.FileName(), formReader{file}, func() (string, error) {
		after, second, err := next(form, len(notes))
		if err == nil {
			err = body.arrived()
		}
		if err != nil {
			return "", err
		}
		if second != nil {
			return "", fault.Invalid("More than one 'file'").With("invalid_form")
		}
		return notes + after, nil
	})
}

// next reads a form's fields up to the file, or to the end, and gives the notes among them.
func next(form *multipart.Reader, already int) (notes string, file *multipart.Part, err error) {
	for range maxParts {
		part, err := form.NextPart()
		if err == io.EOF {
			return notes, nil, nil
		}
		if err != nil {
			return "", nil, formFault(err)
		}
		switch name := part.FormName(); {
		case name == "file":
			return notes, part, nil
		case name == "notes" && notes == "" && already == 0:
			value, err := io.ReadAll(io.LimitReader(part, maxOverhead))
			if err != nil {
				return "", nil, formFault(err)
			}
			notes = string(value)
		default:
			return "", nil, fault.UnknownField(text.Escape(name), []string{"file", "notes"})
		}
	}
	return "", nil, fault.Invalid("Too many fields").With("invalid_form")
}

// formReader makes faults of what is wrong with a form.
type formReader struct{ part *multipart.Part }

func (f formReader) Read(p []byte) (int, error) {
	n, err := f.part.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = formFault(err)
	}
	return n, err
}

func formFault(err error) error {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return fault.BodyTooLarge()
	}
	return fault.Invalid("Invalid form in request body").With("invalid_form").Because(err)
}

// arriving is a body that must keep arriving.
type arriving struct {
	from     io.Reader
	deadline func(time.Time) error
	until    time.Time
}

func (a *arriving) Read(p []byte) (int, error) {
	// Moving the deadline costs a system call, so it moves a second at a time.
	if until := time.Now().Add(uploadIdle); until.Sub(a.until) > time.Second {
		if err := a.deadline(until); err != nil {
			return 0, err
		}
		a.until = until
	}
	return a.from.Read(p)
}

// arrived ends the demand: what follows takes as long as it takes.
func (a *arriving) arrived() error { return a.deadline(time.Time{}) }

func asRefused(err error) (*ecosystem.RefusedError, bool) {
	return errors.AsType[*ecosystem.RefusedError](err)
}
