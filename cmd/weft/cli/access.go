package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/controller/access"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/store"
)

const accessLong = `Say who may do what in etcd. Without, whoever has a certificate of the fleet may do everything there. Once it is enabled, a
node may write its own keys and who is active for the routers that are planned on it, and nothing else; controllers and admins
may do everything.

Grant it to every controller, admin and node, then enable it. A node that is added later is granted it before its agent is
started. The commands speak to etcd itself, as an admin. A backup does not hold it: after a restore into another etcd it is
granted and enabled again.`

func (a *app) accessCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "access", Short: "Say who may do what in etcd", Long: accessLong}
	cmd.AddCommand(a.accessGrantCmd(), a.accessRevokeCmd(), a.accessListCmd(), a.accessEnableCmd(), a.accessDisableCmd())
	return group(cmd)
}

// accessTo is a command about one identity.
func (a *app) accessTo(cmd *cobra.Command, done string, do func(context.Context, *store.Store, identity.Identity) error) *cobra.Command {
	var at etcdFlags
	cmd.Args, cmd.ValidArgs = args(cobra.ExactArgs(2)), []string{string(identity.Node), string(identity.Controller), string(identity.Admin)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id := identity.Identity{Role: identity.Role(args[0]), Name: args[1]}
		if err := id.Check(); err != nil {
			return usageError{err}
		}
		return at.with(cmd.Context(), a, func(ctx context.Context, s *store.Store) error {
			if err := do(ctx, s, id); err != nil {
				return err
			}
			fmt.Fprintf(a.env.Stdout, done+"\n", id)
			return nil
		})
	}
	at.add(cmd)
	return cmd
}

func (a *app) accessGrantCmd() *cobra.Command {
	return a.accessTo(&cobra.Command{
		Use: "grant ROLE NAME", Short: "Let an identity work", Example: "  weft access grant node net1 --etcd https://10.0.0.1:2379",
		Long: "Let an identity do what its role does: ROLE is node, controller or admin. Doing it again repairs what somebody has changed.",
	}, "%s may work", func(ctx context.Context, s *store.Store, id identity.Identity) error {
		return access.Grant(ctx, s.Client(), id)
	})
}

func (a *app) accessRevokeCmd() *cobra.Command {
	return a.accessTo(&cobra.Command{
		Use: "revoke ROLE NAME", Short: "Shut an identity out",
		Long: `Shut an identity out of etcd: the certificate of a host that was stolen, say. What it asks for from then on is refused; watches
that it has open end with their connection. Its certificate is good for the rest until the authority is replaced.`,
	}, "%s is shut out", func(ctx context.Context, s *store.Store, id identity.Identity) error {
		return access.Revoke(ctx, s.Client(), id)
	})
}

func (a *app) accessListCmd() *cobra.Command {
	var at etcdFlags
	cmd := &cobra.Command{
		Use: "list", Short: "List who may work, and whether that is enforced", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.with(cmd.Context(), a, func(ctx context.Context, s *store.Store) error {
				enabled, err := access.Enabled(ctx, s.Client())
				if err != nil && !errors.Is(err, access.ErrSilent) {
					return err
				}
				silent := err
				users, err := access.Users(ctx, s.Client())
				if err != nil {
					return err
				}
				slices.SortFunc(users, func(a, b identity.Identity) int { return strings.Compare(a.String(), b.String()) })
				for _, id := range users {
					fmt.Fprintln(a.env.Stdout, id)
				}
				switch {
				case silent != nil:
					fmt.Fprintln(a.env.Stderr, silent)
				case !enabled:
					fmt.Fprintln(a.env.Stderr, "it is not enabled: whoever has a certificate of the fleet may do everything")
				}
				return nil
			})
		},
	}
	at.add(cmd)
	return cmd
}

func (a *app) accessEnableCmd() *cobra.Command {
	var at etcdFlags
	cmd := &cobra.Command{
		Use: "enable", Short: "Have etcd enforce it", Args: args(cobra.NoArgs),
		Long: "Have etcd enforce who may do what. Refused while somebody who works now would be locked out: you, a controller, a node.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.with(cmd.Context(), a, func(ctx context.Context, s *store.Store) error {
				if at.self == (identity.Identity{}) {
					return usagef("etcd goes by certificates, which there are none of without TLS")
				}
				return access.Enable(ctx, s.Client(), at.self)
			})
		},
	}
	at.add(cmd)
	return cmd
}

func (a *app) accessDisableCmd() *cobra.Command {
	var at etcdFlags
	cmd := &cobra.Command{
		Use: "disable", Short: "Have etcd let everybody do everything", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.with(cmd.Context(), a, func(ctx context.Context, s *store.Store) error { return access.Disable(ctx, s.Client()) })
		},
	}
	at.add(cmd)
	return cmd
}
