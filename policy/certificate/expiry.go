package certificate

import (
	"crypto/x509"
	"fmt"
	"time"
)

// MaxThreshold is the largest CertificateExpirationThreshold, in days. A larger one counts as this.
const MaxThreshold = 180

// An Expiry is how long a certificate is still good.
type Expiry struct {
	// NotAfter is when it expires.
	NotAfter time.Time `json:"notAfter"`
	// Days are the whole days until then, 0 on the last one, and less than 0 when it has expired.
	Days int `json:"days"`
	// Warn says that the user is to be told.
	Warn bool `json:"warn"`
}

// ExpiryOf returns how long a certificate is still good. The threshold is the CertificateExpirationThreshold of the profile: that
// many days before it expires the user is to be told, never if it is 0 or less. That a certificate has expired is worth telling
// whatever the threshold.
func ExpiryOf(c *x509.Certificate, threshold int, now time.Time) Expiry {
	const day = 24 * time.Hour
	e := Expiry{NotAfter: c.NotAfter}
	left := c.NotAfter.Sub(now)
	e.Days = int(left / day)
	if left < 0 {
		e.Days, e.Warn = -1-int(-left/day), true
		return e
	}
	e.Warn = threshold > 0 && left <= time.Duration(min(threshold, MaxThreshold))*day
	return e
}

// String returns a sentence's end for people, such as "expires in 12 days, on 2026-03-01 12:00:00 UTC".
func (e Expiry) String() string {
	at := e.NotAfter.UTC().Format(time.DateTime) + " UTC"
	switch {
	case e.Days < 0:
		return "expired on " + at
	case e.Days == 0:
		return "expires within a day, on " + at
	case e.Days == 1:
		return "expires in 1 day, on " + at
	}
	return fmt.Sprintf("expires in %d days, on %s", e.Days, at)
}
