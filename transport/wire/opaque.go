package wire

// An Opaque is an element <opaque is-for="sg"> as it came, from its first byte to its last. The client returns it
// unchanged with its next reply; it need not, and should not, know what is inside. Empty means that none came.
type Opaque string

// OpaqueOf makes an Opaque out of values, for a gateway that has state to hand out. Names must be element names.
func OpaqueOf(values ...Value) Opaque {
	b := []byte(`<opaque is-for="sg">`)
	for _, v := range values {
		b = appendElement(b, v.Name, v.Value)
	}
	return Opaque(append(b, "</opaque>"...))
}

// Values returns the elements inside that hold only text, at any depth. It returns none if o is malformed.
func (o Opaque) Values() []Value {
	if o == "" {
		return nil
	}
	n, err := parseTree([]byte(o))
	if err != nil {
		return nil
	}
	return n.leaves(nil)
}
