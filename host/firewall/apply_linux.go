package firewall

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// batch opens a connection that sends what it is given in one transaction. The caller closes it with CloseLasting.
func (f *Firewall) batch(ctx context.Context) (*nftables.Conn, error) {
	opts := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return prepare(ctx, c)
	})}
	if f.NetNS != nil {
		opts = append(opts, nftables.WithNetNSFd(f.netns()))
	}
	conn, err := nftables.New(opts...)
	return conn, kind(err)
}

// apply enforces cfg, which is normal. It is called with f.mu held.
func (f *Firewall) apply(ctx context.Context, cfg Config, record func() error) error {
	conn, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	before, err := read(conn)
	if err != nil {
		return err
	}
	if before.exists && before.owner == "" {
		return fmt.Errorf("%w; remove it with: nft delete table inet %s", ErrForeign, TableName)
	}
	counts := map[string]Count{}
	if before.owner == f.id {
		if counts, err = counters(conn); err != nil {
			return err
		}
	}
	if err := record(); err != nil {
		return err
	}
	if before.exists && before.owner != f.id {
		f.logger().Warn("taking over the rules of another process", "table", TableName)
	}
	serial, _ := strconv.ParseUint(before.serial, 10, 64)
	if before.owner != f.id {
		serial = 0
	}
	if err := f.replace(ctx, conn, &cfg, strconv.FormatUint(serial+1, 10), counts); err != nil {
		return err
	}
	f.applied = &cfg
	f.logger().Info("firewall applied", "device", cfg.Device, "gateways", len(cfg.Gateways), "resolvers", len(cfg.Resolvers),
		"hosts", len(cfg.Hosts), "lan", len(cfg.LAN), "guests", len(cfg.Guests), "portal", !cfg.Portal.Until.IsZero(),
		"fails", map[bool]string{true: "closed", false: "open"}[cfg.Lease == 0])
	return nil
}

// replace sends the table and remembers how it looks. Conn is for reading.
func (f *Firewall) replace(ctx context.Context, conn *netlink.Conn, cfg *Config, serial string, counts map[string]Count) error {
	nft, err := f.batch(ctx)
	if err != nil {
		return err
	}
	defer nft.CloseLasting()
	r := rules{conn: nft}
	if err := r.build(cfg, f.id+"-"+serial, counts, time.Now()); err != nil {
		return kind(err)
	}
	failed := nft.Flush()
	after, err := read(conn)
	// The kernel may have done it all and have had no room to say so.
	if failed != nil && (err != nil || after.owner != f.id || after.serial != serial) {
		return kind(failed)
	}
	if err != nil {
		f.logger().Warn("reading back the rules failed", "err", err)
	}
	f.print, f.known = after.print, err == nil
	return nil
}

// remove deletes the table if the owner is the one given. It is called with f.mu held.
func (f *Firewall) remove(ctx context.Context, owner string) error {
	conn, err := f.dial(ctx)
	if err != nil {
		// Where there is no nf_tables there is nothing to undo.
		if errors.Is(err, ErrUnsupported) {
			return nil
		}
		return err
	}
	defer conn.Close()
	s, err := read(conn)
	if err != nil {
		return err
	}
	switch {
	case !s.exists:
		return nil
	case s.owner != owner:
		return fmt.Errorf("%w; nft list table inet %s shows it", ErrChanged, TableName)
	}
	nft, err := f.batch(ctx)
	if err != nil {
		return err
	}
	defer nft.CloseLasting()
	nft.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: TableName})
	if err := nft.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return kind(err)
	}
	f.logger().Info("firewall removed", "table", TableName)
	return nil
}

// renew begins the lease anew. It is called with f.mu held.
func (f *Firewall) renew(ctx context.Context, lease time.Duration) error {
	nft, err := f.batch(ctx)
	if err != nil {
		return err
	}
	defer nft.CloseLasting()
	set, elements := leaseSet(&nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}), leaseElements(lease)
	refresh := func(del bool) error {
		// To add what is there changes nothing, so it is taken away in the same transaction.
		if del {
			if err := nft.SetDeleteElements(set, leaseElements(0)); err != nil {
				return err
			}
		}
		if err := nft.SetAddElements(set, elements); err != nil {
			return err
		}
		return nft.Flush()
	}
	err = refresh(true)
	if errors.Is(err, unix.ENOENT) {
		// One of them or both had expired, or the table is gone.
		if err = refresh(false); err == nil {
			err = refresh(true)
		}
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w: the lease cannot be renewed", ErrChanged)
		}
	}
	return kind(err)
}
