package main

import (
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/oath"
)

// token returns what makes one-time passwords, or nil.
func (c *clientFlags) token(r *reporter) (login.Prompter, error) {
	if c.tokenMode == "" {
		if c.tokenSecret != "" {
			return nil, usagef("--token-secret needs --token-mode totp or hotp")
		}
		return nil, nil
	}
	if c.tokenSecret == "" {
		return nil, usagef("--token-mode needs --token-secret @FILE")
	}
	var token *oath.Token
	var err error
	switch c.tokenMode {
	case "totp":
		token, err = oath.TOTP(transport.Secret(c.tokenSecret))
	case "hotp":
		token, err = oath.HOTP(transport.Secret(c.tokenSecret), func(next uint64) error {
			r.warn("the next counter of the token is %d: write it behind the secret, or keep the secret in a file, where it is kept up to date", next)
			return nil
		})
	default:
		return nil, usagef("--token-mode %s: want totp or hotp", oneLine(c.tokenMode))
	}
	if err != nil {
		return nil, usagef("--token-secret: %w", err)
	}
	return token, nil
}
