package wire

// DynamicSplit is [ClientConfig.DynamicSplit] of a document, such as that of X-CSTP-Post-Auth-XML. An error is one of ParseDocument.
func DynamicSplit(document string) (include, exclude []string, err error) {
	d, err := ParseDocument([]byte(document))
	if err != nil {
		return nil, nil, err
	}
	include, exclude = d.Config.DynamicSplit()
	return include, exclude, nil
}

// suffixes returns the domains in lists, each once. AnyLink writes one more comma at the end.
func suffixes(lists []string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, l := range lists {
		for _, d := range appendDomains(nil, l) {
			if !seen[d] && len(out) < maxList {
				seen[d] = true
				out = append(out, d)
			}
		}
	}
	return out
}
