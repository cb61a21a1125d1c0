// Command pack-registry is the service that decides which packs exist: it imports, installs, rolls back and uninstalls them.
//
// It owns the ecosystem folder, and is the only service that writes to it; the stagings (user_data/pack_staging), the backups
// (user_data/pack_backups), and a database with the records of stagings and the journal of changes that have begun and not ended.
//
// Callers: the gateway; capability-broker and pip-installer, which read the files of packs that they look for (handlers, locks). It calls
// approval after every change of the folder, and approval, egress-proxy, capability-broker and pip-installer during an uninstall.
//
// When it dies, packs run on; nothing can be imported, applied or uninstalled. After the start it finishes or undoes the change that was
// under way: a pack's folder is the old one or the new one, never a mixture. An uninstall that was interrupted has to be repeated by the
// operator; the pack stays retired until then.
//
// Several replicas may share the database and the folders. A file lock lets one of them at a time change the ecosystem folder.
//
// Read the packages in this order:
//
//   - internal/archive: which zip archives are acceptable, and why the others aren't;
//   - internal/folder: copies within limits and without links;
//   - internal/staging: from an import to a staging; it declares the store that it needs;
//   - internal/journal: the entries of the journal;
//   - internal/ecosystem: apply, rollback, removal and recovery; it declares the journal that it needs;
//   - internal/store: the database;
//   - internal/uninstall: the uninstall over all services;
//   - internal/httpapi: the routes.
package main
