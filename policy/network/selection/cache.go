package selection

import (
	"encoding/json"
	"errors"
	"fmt"
)

// MaxCacheSize is how large the file of a Cache may be, in bytes. What a [Selector] keeps is always smaller.
const MaxCacheSize = 256 << 10

// ErrCache is what the errors of ParseCache match.
var ErrCache = errors.New("selection: what is known of the gateways cannot be read")

// ParseCache reads a Cache as encoding/json writes it. Fields that it does not know are passed over, since another version may have
// written them. An error matches [ErrCache], and the Cache is empty then, which only means that the gateways are measured again. What
// is believed of it, [NewSelector] decides.
func ParseCache(b []byte) (Cache, error) {
	if len(b) > MaxCacheSize {
		return Cache{}, fmt.Errorf("%w: it has %d bytes, at most %d are read", ErrCache, len(b), MaxCacheSize)
	}
	var c Cache
	if err := json.Unmarshal(b, &c); err != nil {
		return Cache{}, fmt.Errorf("%w: %w", ErrCache, err)
	}
	return c, nil
}
