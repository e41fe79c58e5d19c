// Package preferences reads and writes the preferences of an AnyConnect client: what a user has chosen where the profile lets
// him, and what he used last, such as the gateway and the group.
//
// There are two files: one of each user, and a global one for what happens before anybody has logged on. A change writes the
// few bytes that it is about and leaves the rest of a file as it was, whoever wrote it; a file is replaced as a whole or not
// at all, and not at all if nothing has changed.
//
// Nothing in the files is secret, but names of users and certificates are nobody else's business, so the file of a user is
// readable for him alone, and [Preferences.Forget] takes out what the local policy does not want to be kept.
package preferences
