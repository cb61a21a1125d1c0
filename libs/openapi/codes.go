package openapi

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// codesHeading begins the section of docs/api.md that has the table of error codes.
const codesHeading = "\n## Error codes\n"

var (
	codeRow = regexp.MustCompile("^\\| `([a-z0-9_]+)` \\| ([0-9, ]+) \\|(?: (.*?))? \\| (.+?) \\| (.+?) \\|$")
	quoted  = regexp.MustCompile("`([^`]+)`")
)

// ReadCodes reads the table of error codes out of the text of docs/api.md, the one place where they have causes and remedies. The codes
// are sorted. A row looks like
//
//	| `pack_not_found` | 404 | `Pack not found` | no such pack | `GET /api/packs` has those that are there |
func ReadCodes(page string) (Map[Code], error) {
	_, section, ok := strings.Cut(page, codesHeading)
	if !ok {
		return nil, errors.New(`read error codes: there is no section "Error codes"`)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var table Map[Code]
	for line := range strings.Lines(section) {
		line = strings.TrimSuffix(line, "\n")
		cells := codeRow.FindStringSubmatch(line)
		if cells == nil {
			if strings.HasPrefix(line, "| `") && !strings.HasPrefix(line, "| `error_code`") {
				return nil, fmt.Errorf("read error codes: the row %q has not the form of the others", line)
			}
			continue
		}
		if _, twice := table.Get(cells[1]); twice {
			return nil, fmt.Errorf("read error codes: there are two rows of %s", cells[1])
		}
		code, err := readCode(cells)
		if err != nil {
			return nil, fmt.Errorf("read error codes: %s: %w", cells[1], err)
		}
		table.Set(cells[1], code)
	}
	slices.SortFunc(table, func(a, b Member[Code]) int { return strings.Compare(a.Name, b.Name) })
	return table, nil
}

func readCode(cells []string) (Code, error) {
	code := Code{Cause: cells[4], Remedy: cells[5]}
	for status := range strings.SplitSeq(cells[2], ", ") {
		n, err := strconv.Atoi(status)
		if err != nil {
			return Code{}, fmt.Errorf("the status %q is no number", status)
		}
		code.Statuses = append(code.Statuses, n)
	}
	for _, text := range quoted.FindAllStringSubmatch(cells[3], -1) {
		code.Texts = append(code.Texts, text[1])
	}
	return code, nil
}
