package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// runHostile starts the hostile pack and checks its output. The pack prints a line "ATTEMPT …: blocked" or "ATTEMPT …: ESCAPED" for each
// way out that it tries, and a line "RESULT: …" at the end.
func (r *runner) runHostile(ctx context.Context) error {
	if err := r.start(ctx, hostile, "start it"); err != nil {
		return err
	}
	if err := r.step(ctx, "it tries every way out it knows", func(s *step) (string, error) {
		lines, err := r.logs(ctx, hostile, func(line string) bool { return strings.HasPrefix(line, "RESULT: ") })
		if err != nil {
			return "", err
		}
		s.began = r.began
		s.expectAuditOf("pack:"+hostile, hostile, "security", "network_denied", false)
		s.expectAuditOf("pack:"+hostile, hostile, "security", "capability_denied", false)
		attempts := 0
		for _, line := range lines {
			if attempt, ok := strings.CutPrefix(line, "ATTEMPT "); ok {
				attempts++
				if !strings.Contains(attempt, ": blocked") {
					return "", errors.New(line)
				}
			}
		}
		if want := fmt.Sprintf("RESULT: %d attempts, 0 escaped", attempts); attempts == 0 || lines[len(lines)-1] != want {
			return "", fmt.Errorf("it ended with %q, want %q", lines[len(lines)-1], want)
		}
		return strings.Join(lines, "\n"), nil
	}); err != nil {
		return err
	}
	return r.checkConfinement(ctx, hostile)
}
