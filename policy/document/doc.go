// Package document reads, checks, describes and edits the small XML documents that an administrator steers a client by.
//
// The documents come from networks, mail attachments and text editors, so a [Document] keeps every byte of its source and the
// place of everything in it: a finding can say which line is wrong, and an edit changes the few bytes that it is about and no
// others. Reading knows no document types, no external entities and no entities beyond the five of XML, so a document cannot
// grow while it is read and cannot fetch anything; size, depth and the number of elements are bounded.
//
// What may stand in a document is written down once, in a [Schema]: a table of elements with their types, values, defaults,
// who may change them, what they do, and where. The table finds the faults of a document ([Schema.Lint]), knows the place of a
// new element ([Document.Put]), writes the XML Schema that other tools check with ([Schema.XSD]) and the reference that people
// read ([Schema.Markdown]).
package document
