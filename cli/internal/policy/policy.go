// Package policy is what `rumi policy check` does: it says what the policy, or a file that is to become it, doesn't cover of what is granted.
package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/cli/internal/api"
	"github.com/rumi-ai/rumi/libs/policy"
)

// ExitViolated is the exit status of a check that has found something. Any error has 1.
const ExitViolated = 3

// ViolatedError says that something is over the ceiling. Everything has been printed.
type ViolatedError struct{ Count int }

func (e *ViolatedError) Error() string { return fmt.Sprintf("%d not covered by the policy", e.Count) }

// ExitCode is read by kong.
func (e *ViolatedError) ExitCode() int { return ExitViolated }

// result is the answer of POST /api/policy/check.
type result struct {
	Violations []policy.Finding  `json:"violations"`
	Count      int               `json:"count"`
	Errors     map[string]string `json:"errors"`
}

// Check asks the suite what the document in file doesn't cover; "" is the policy in force, "-" is in. A file that can't be read as a policy is an
// error with line and column, and nothing is asked. The error is a *ViolatedError where something isn't covered. A service that can't be asked
// is another error: without its answer nobody knows whether all is covered.
func Check(ctx context.Context, client *api.Client, file string, in io.Reader, out io.Writer, asJSON bool) error {
	request := struct {
		Policy jsontext.Value `json:"policy,omitzero"`
	}{}
	if file != "" {
		text, err := read(file, in)
		if err != nil {
			return err
		}
		request.Policy = text
	}
	var found result
	if err := client.Call(ctx, "POST", "/api/policy/check", request, &found); err != nil {
		return err
	}
	if err := found.print(out, asJSON); err != nil {
		return err
	}
	var problems []error
	for _, service := range slices.Sorted(maps.Keys(found.Errors)) {
		problems = append(problems, fmt.Errorf("%s could not be asked, so what it has is not in the list: %s", service, found.Errors[service]))
	}
	if len(problems) == 0 && found.Count > 0 {
		return &ViolatedError{found.Count}
	}
	return errors.Join(problems...)
}

func read(file string, in io.Reader) ([]byte, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(in, policy.MaxBytes+1))
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	if _, err := policy.Parse(text); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return text, nil
}

func (r result) print(out io.Writer, asJSON bool) error {
	if asJSON {
		text, err := json.Marshal(r, json.Deterministic(true), jsontext.Multiline(true))
		if err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
		_, err = fmt.Fprintf(out, "%s\n", text)
		return err
	}
	if r.Count == 0 && len(r.Errors) == 0 {
		_, err := fmt.Fprintln(out, "Everything is covered by the policy.")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if r.Count > 0 {
		fmt.Fprintln(table, "PACK\tWHAT\tGRANTED BY\tRULE\tEFFECT\tREASON")
	}
	for _, v := range r.Violations {
		what := strings.ReplaceAll(v.Kind, "_", " ")
		if v.Kind == policy.CapabilityGrant {
			what = v.Name
		}
		effect := "stays"
		if v.Suspended {
			effect = "suspended"
		}
		by := v.GrantedBy
		if v.Role != "" {
			by += " (" + v.Role + ")"
		}
		fmt.Fprintln(table, strings.Join([]string{v.PackID, what, shown(by), v.Rule, effect, shown(v.Reason)}, "\t"))
	}
	if omitted := r.Count - len(r.Violations); omitted > 0 {
		fmt.Fprintf(table, "and %d more\n", omitted)
	}
	return table.Flush()
}

// shown keeps what others have written from changing the terminal or the table.
func shown(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c <= 0x9f {
			return '?'
		}
		return c
	}, s)
	if s == "" {
		return "-"
	}
	return s
}
