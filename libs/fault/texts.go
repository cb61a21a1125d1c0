package fault

import "strings"

// The faults that several services answer. Each has one constructor, so that one text has the same code everywhere. A fault of a single
// service is made in that service, where it is answered.

// NoRoute is the answer to a path that no endpoint has.
func NoRoute() *Fault { return NotFound("Not found").With("not_found") }

// MethodNotAllowed is the answer to a path that has endpoints, but none of this method.
func MethodNotAllowed() *Fault {
	return New(KindMethod, "Method not allowed").With("method_not_allowed")
}

// BodyTooLarge is the answer to a request body that is larger than its endpoint takes.
func BodyTooLarge() *Fault { return TooLarge("Request body too large").With("body_too_large") }

// BodyUnreadable is the answer to a request body that ended before its announced length.
func BodyUnreadable() *Fault {
	return Invalid("Request body could not be read").With("body_unreadable")
}

// InvalidField is the answer to a wrong value of a field of the body, or of a parameter of the query. want describes the right ones: "a whole
// number from 1 to 1000".
func InvalidField(name, want string) *Fault {
	return Invalid("Invalid value for field '%s': want %s", name, want).With("invalid_field")
}

// TooLong is the answer to a field whose text has more than limit bytes.
func TooLong(field string, limit int) *Fault {
	return Invalid("'%s' is too long (max %d bytes)", field, limit).With("value_too_long")
}

// Missing is the answer to a request without a required field.
func Missing(field string) *Fault { return Invalid("Missing %s", field).With("missing_" + field) }

// ExpiresTooEarly is the answer to an expires_at that is not in the future.
func ExpiresTooEarly() *Fault {
	return Invalid("expires_at must lie in the future").With("invalid_expires_at")
}

// MissingPath is the answer to a request without the path of a file.
func MissingPath() *Fault { return Invalid("Missing 'path'").With("missing_path") }

// PackNotFound is the answer to a pack_id of no known pack.
func PackNotFound() *Fault { return NotFound("Pack not found").With("pack_not_found") }

// PackNotApproved is the answer to a request that only an approved pack may make, or that is about one. status is the pack's (see
// pack.Status), "unknown" if approval doesn't know the pack.
func PackNotApproved(packID, status string) *Fault {
	return Conflict("Pack '%s' is not approved (status: %s)", packID, status).With("pack_not_approved")
}

// InvalidPrincipal is the answer to a principal_id that doesn't have the form of a pack's id.
func InvalidPrincipal() *Fault { return Invalid("Invalid principal_id").With("invalid_principal_id") }

// The forms of candidate keys, for InvalidCandidateKey.
const (
	HandlerKeyForm = "PACK:SLUG:HANDLER_ID:SHA256"
	LockKeyForm    = "PACK:PATH:SHA256"
)

// InvalidCandidateKey is the answer to a candidate_key that doesn't have the form: HandlerKeyForm or LockKeyForm.
func InvalidCandidateKey(form string) *Fault {
	return Invalid("Invalid candidate_key (want %s, URL-encoded, as GET …/requests lists it)", form).With("invalid_candidate_key")
}

// ContentChanged is the answer to an approval if the file has other bytes than the scan found. Otherwise an operator could approve bytes that
// nobody has reviewed. again is the path of the endpoint that scans: "/api/pip/candidates/scan".
func ContentChanged(file, again string) *Fault {
	return Conflict("SHA-256 mismatch: %s content changed since scan (TOCTOU). Scan again: POST %s", file, again).With("hash_mismatch")
}

// ServiceUnavailable is the answer if a service that is needed can't be reached.
func ServiceUnavailable(service string) *Fault {
	return Unavailable("Service unavailable: %s", service).With("service_unavailable")
}

// DockerUnavailable is the answer if the Docker engine can't be reached.
func DockerUnavailable() *Fault {
	return Unavailable("Docker is required but not available").With("docker_unavailable")
}

// StoreUnavailable is the answer if a service's database doesn't answer, or is so busy that a transaction was given up.
func StoreUnavailable(service string) *Fault {
	return Unavailable("Database of %s is not available", service).With("store_unavailable")
}

// NoSpace is the answer if the disk is full. what names the things that don't fit any more: "imports".
func NoSpace(what string) *Fault { return Unavailable("No space left for %s", what).With("no_space") }

// Answered is the fault that another service answered. It keeps kind, code and text, so that the client gets the same answer over any
// number of hops.
func Answered(kind Kind, code, message string) *Fault {
	return &Fault{Kind: kind, Code: code, Message: message}
}

// UnknownField is the answer to a field of the body that the endpoint doesn't have. known are the ones that it has: most often the client has
// misspelt one of them.
func UnknownField(name string, known []string) *Fault {
	return Invalid("Unknown field '%s' (known: %s)", name, orNone(known)).With("unknown_field")
}

// UnknownParameter is the answer to a parameter of the query that the endpoint doesn't have. known are the ones that it has.
func UnknownParameter(name string, known []string) *Fault {
	return Invalid("Unknown parameter '%s' (known: %s)", name, orNone(known)).With("unknown_parameter")
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
