package fault

import "strings"

// The texts that more than one service answers. Each has one constructor, so that one text has one code everywhere; a
// text of a single service is made where it is answered, with its code beside it.

// NoRoute is the answer to a path that nobody serves.
func NoRoute() *Fault { return NotFound("Not found").With("not_found") }

// MethodNotAllowed is the answer to a method that a path doesn't have.
func MethodNotAllowed() *Fault {
	return New(KindMethod, "Method not allowed").With("method_not_allowed")
}

// BodyTooLarge is the answer to a request body over its bound.
func BodyTooLarge() *Fault { return TooLarge("Request body too large").With("body_too_large") }

// BodyUnreadable is the answer to a request body that broke off.
func BodyUnreadable() *Fault {
	return Invalid("Request body could not be read").With("body_unreadable")
}

// InvalidField is the answer to a field, or a parameter of the query, whose value is none that it takes. want says which
// it takes: "a whole number from 1 to 1000".
func InvalidField(name, want string) *Fault {
	return Invalid("Invalid value for field '%s': want %s", name, want).With("invalid_field")
}

// TooLong is the answer to the text of a field that is over its bound, in bytes.
func TooLong(field string, limit int) *Fault {
	return Invalid("'%s' is too long (max %d bytes)", field, limit).With("value_too_long")
}

// Missing is the answer to a field that must be there.
func Missing(field string) *Fault { return Invalid("Missing %s", field).With("missing_" + field) }

// MissingPath is the answer where the path of a file is needed.
func MissingPath() *Fault { return Invalid("Missing 'path'").With("missing_path") }

// PackNotFound is the answer to a pack_id that no pack has.
func PackNotFound() *Fault { return NotFound("Pack not found").With("pack_not_found") }

// PackNotApproved is the answer to a call that needs the pack's approval. status is "unknown" where there is none.
func PackNotApproved(packID, status string) *Fault {
	return Conflict("Pack '%s' is not approved (status: %s)", packID, status).With("pack_not_approved")
}

// InvalidPrincipal is the answer to a principal_id that can't be one.
func InvalidPrincipal() *Fault { return Invalid("Invalid principal_id").With("invalid_principal_id") }

// The forms of candidate keys, as InvalidCandidateKey names them.
const (
	HandlerKeyForm = "PACK:SLUG:HANDLER_ID:SHA256"
	LockKeyForm    = "PACK:PATH:SHA256"
)

// InvalidCandidateKey is the answer to a key that can't be one of the form.
func InvalidCandidateKey(form string) *Fault {
	return Invalid("Invalid candidate_key (want %s, URL-encoded, as GET …/requests lists it)", form).With("invalid_candidate_key")
}

// ContentChanged is the answer where a file isn't any more what a scan found. again is the call that scans.
func ContentChanged(file, again string) *Fault {
	return Conflict("SHA-256 mismatch: %s content changed since scan (TOCTOU). Scan again: POST %s", file, again).With("hash_mismatch")
}

// ServiceUnavailable is the answer where a service that is needed can't be reached.
func ServiceUnavailable(service string) *Fault {
	return Unavailable("Service unavailable: %s", service).With("service_unavailable")
}

// DockerUnavailable is the answer where the engine doesn't answer.
func DockerUnavailable() *Fault {
	return Unavailable("Docker is required but not available").With("docker_unavailable")
}

// StoreUnavailable is the answer where the database of a service doesn't answer, or is so busy that a transaction was given up.
func StoreUnavailable(service string) *Fault {
	return Unavailable("Database of %s is not available", service).With("store_unavailable")
}

// NoSpace is the answer where the disk is full; what is the thing that there is no space for: "imports".
func NoSpace(what string) *Fault { return Unavailable("No space left for %s", what).With("no_space") }

// Answered is the fault that another service answered, with the code that it had there.
func Answered(kind Kind, code, message string) *Fault {
	return &Fault{Kind: kind, Code: code, Message: message}
}

// UnknownField is the answer to a member of a body that nobody reads; known are those that are read.
func UnknownField(name string, known []string) *Fault {
	return Invalid("Unknown field '%s' (known: %s)", name, orNone(known)).With("unknown_field")
}

// UnknownParameter is the answer to a parameter of the query that nobody reads; known are those that are read.
func UnknownParameter(name string, known []string) *Fault {
	return Invalid("Unknown parameter '%s' (known: %s)", name, orNone(known)).With("unknown_parameter")
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
