package wire

// DynamicSplit returns the domain suffixes that a document, such as that of X-CSTP-Post-Auth-XML, wants inside the tunnel and outside
// of it, by name. They are in lower case, without dots at their ends and without repetitions. An error is one of ParseDocument.
func DynamicSplit(document string) (include, exclude []string, err error) {
	d, err := ParseDocument([]byte(document))
	if err != nil {
		return nil, nil, err
	}
	include, exclude = d.Config.DynamicSplit()
	return suffixes(include), suffixes(exclude), nil
}

// suffixes returns the domains among names, each once.
func suffixes(names []string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, n := range names {
		for _, d := range appendDomains(nil, n) {
			if !seen[d] && len(out) < maxList {
				seen[d] = true
				out = append(out, d)
			}
		}
	}
	return out
}
