package route

import (
	"bytes"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
)

// Undeclared is for tests: where it isn't nil when a table is mounted, it is called with each failure that a public route answers with a code
// that the route doesn't declare (see Fails). Package servicetest sets it, so that every test of a service checks the declarations. It is nil
// in production, where nothing is checked and nothing costs time.
var Undeclared func(route, code, message string)

// checkCodes has report called for failures of undeclared codes.
func checkCodes(r *Route, handler http.Handler, report func(route, code, message string)) http.Handler {
	name, declared := r.Name(), r.ErrorCodes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failure := &failureWriter{ResponseWriter: w}
		handler.ServeHTTP(failure, r)
		if failure.status < http.StatusBadRequest {
			return
		}
		var answer rpc.Answer
		if err := json.Unmarshal(failure.body.Bytes(), &answer); err != nil {
			return // no envelope: a handler that a test wrote for itself
		}
		if answer.Error != nil && !slices.Contains(declared, answer.ErrorCode) {
			report(name, answer.ErrorCode, *answer.Error)
		}
	})
}

// CheckFault reports an error that a handler gives to be answered, for handlers that no Handlers serve. Call it while a table would be mounted,
// and what it returns with each error.
func (r *Route) CheckFault() func(error) {
	report := Undeclared
	if report == nil {
		return func(error) {}
	}
	name, declared := r.Name(), r.ErrorCodes()
	return func(err error) {
		f := fault.Of(err)
		if f.ErrorCode() == fault.NoRoute().Code {
			return // of another service: a stand-in of a test that lacks an endpoint
		}
		if !slices.Contains(declared, f.ErrorCode()) {
			report(name, f.ErrorCode(), f.Message)
		}
	}
}

// failureWriter keeps a copy of the body of a failure.
type failureWriter struct {
	http.ResponseWriter
	status int // 0 before the answer has begun
	body   bytes.Buffer
}

func (w *failureWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *failureWriter) Write(p []byte) (int, error) {
	if w.status >= http.StatusBadRequest {
		w.body.Write(p)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *failureWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
