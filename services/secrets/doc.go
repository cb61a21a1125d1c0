// Command secrets keeps the values that packs may be granted: encrypted, one file for each key, never shown again. And it renews the
// certificates of all services, because it holds the key of the home's certificate authority (docs/adr/certificate-authority.md).
//
// It owns user_data/secrets: the files, and a journal of every change. A value is sealed with the keyset of user_data/settings/secrets,
// which only this service and root can read, for the name of its key: a file that is copied to another name can't be opened.
//
// Callers: the gateway lists, sets and deletes for operators; the answers have no value. The capability broker, and no other service, asks
// for values, for packs that were granted secrets.get. Every service asks for certificates of its own name, and for the list of revoked ones. It calls
// no other service.
//
// When it dies, secrets.get fails, and everything else works. A kill at any step of a change leaves the old value or the new one, and no
// change without its line in the journal and its audit entry (internal/vault, change).
//
// Several processes may share the folder; writers exclude each other by a file lock, readers need none.
//
// Read the packages in this order:
//
//   - internal/vault: domain and store in one, since a secret is its file: the file's form, changes, damage;
//   - internal/authority: signing certificates, and the list of revoked ones;
//   - internal/httpapi: the endpoints of api/secrets.
package main
