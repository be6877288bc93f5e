package agent

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/weft-sdn/weft/proto/identity"
)

// credentialOf is the node's own credential, which follows its files until the context ends; nil where TLS is off.
func credentialOf(ctx context.Context, cfg Config, log *slog.Logger) (*identity.Credential, error) {
	if cfg.Insecure {
		log.Warn("INSECURE: TLS is off, whoever reaches etcd or this node can do anything to the fleet (insecure: true)")
		return nil, nil //nolint:nilnil // as asked for
	}
	c, err := identity.Load(cfg.TLSDir)
	if err != nil {
		return nil, fmt.Errorf("tls_dir: %w; make one with: weft pki issue node %s", err, cfg.Node)
	}
	if want := (identity.Identity{Role: identity.Node, Name: cfg.Node}); c.Self() != want {
		return nil, fmt.Errorf("tls_dir: the certificate in %s is of %s, and this is %s", cfg.TLSDir, c.Self(), want)
	}
	go c.Follow(ctx, log)
	return c, nil
}
