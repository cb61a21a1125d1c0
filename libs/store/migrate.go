package store

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// migrate brings db to the newest migration. A database that a newer program has migrated further is refused.
func migrate(ctx context.Context, dialect goose.Dialect, db *sql.DB, migrations fs.FS) error {
	p, err := goose.NewProvider(dialect, db, migrations, goose.WithDisableGlobalRegistry(true),
		goose.WithAllowOutofOrder(true)) // migrations may come from several packages, each with numbers of its own
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	current, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; current > newest {
		return fmt.Errorf("read schema version: it is %d, made by a newer program; this one knows %d", current, newest)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
