package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/pki"
)

const pkiLong = `Make the certificates and keys by which the processes of a fleet know each other. These commands work on a folder of files
and ask nobody: keep that folder on a machine of your own, and a copy of it.

"weft pki init" makes a certificate authority there, "weft pki issue" a folder for each process. Carry that folder to its
host, readable by the process alone: to /etc/weft/tls, or wherever tls_dir of its configuration says; of an admin to
~/.config/weft/tls. Carry it there again whenever a command below names it: weft's processes follow the files by themselves.`

const rotateCALong = `Put another authority in the place of the one that issues, in two steps. The first makes it and issues every certificate
anew: carry the folders to their hosts, in any order. Those that have theirs and those that have not yet go on talking to
each other. When every host has its own, --finish has the old authority trusted no more: carry the folders again.

etcd reads the authorities that it trusts only when it starts. It goes on working all the time, and goes on trusting the
old authority until its members have been started anew, one after the other.

A step that was interrupted is taken up by the same command.`

const rotatePeerLong = `Change the key by which the agents of network nodes gossip, in three steps: without a flag a new key is accepted, with --use
it is used, with --finish the old one is accepted no more. Carry the nodes' folders to their hosts after each.`

// pkiFlags are those of all commands of pki, and of some.
type pkiFlags struct {
	dir    string
	given  pki.Given
	hosts  []string
	member identity.Membership
	days   int
	use    bool
	// finish makes the last step of a rotation.
	finish bool
}

func (f *pkiFlags) addGiven(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.given.CertFile, "ca-cert", "", "certificate `file` of an authority that exists already, PEM")
	cmd.Flags().StringVar(&f.given.KeyFile, "ca-key", "", "its key, a PEM `file` without a passphrase")
	cmd.MarkFlagsRequiredTogether("ca-cert", "ca-key")
}

func (f *pkiFlags) addDays(cmd *cobra.Command, otherwise string) {
	cmd.Flags().IntVar(&f.days, "days", 0, "`days` that a certificate lasts; "+otherwise)
	complete(cmd, "days", cobra.NoFileCompletions)
}

func (f *pkiFlags) life() (time.Duration, error) {
	if f.days < 0 {
		return 0, usagef("--days %d is less than 1", f.days)
	}
	return time.Duration(f.days) * 24 * time.Hour, nil
}

func (a *app) pkiCmd() *cobra.Command {
	var f pkiFlags
	cmd := &cobra.Command{Use: "pki", Short: "Make and renew certificates and keys", Long: pkiLong}
	rotate := &cobra.Command{Use: "rotate", Short: "Renew certificates, the authority or the peers' key"}
	rotate.AddCommand(a.rotateCertificatesCmd(&f), a.rotateCACmd(&f), a.rotatePeerKeyCmd(&f))
	cmd.AddCommand(a.pkiInitCmd(&f), a.pkiIssueCmd(&f), group(rotate), a.pkiShowCmd(&f))
	each(cmd, func(c *cobra.Command) {
		c.Flags().StringVar(&f.dir, "dir", "/etc/weft/pki", "`folder` of the authority (environment: WEFT_PKI_DIR)")
	})
	return group(cmd)
}

// open is the authority that is meant.
func (a *app) openPKI(cmd *cobra.Command, f *pkiFlags) (*pki.Authority, error) {
	return pki.Open(a.pkiDir(cmd, f))
}

func (a *app) pkiDir(cmd *cobra.Command, f *pkiFlags) string {
	if env := a.env.Getenv("WEFT_PKI_DIR"); env != "" && !cmd.Flags().Changed("dir") {
		return env
	}
	return f.dir
}

func (a *app) pkiInitCmd(f *pkiFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "init", Short: "Make a certificate authority", Args: args(cobra.NoArgs),
		Long: "Make a certificate authority, or take one that exists, and the key of the peers. A folder that has one already is refused.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := a.pkiDir(cmd, f)
			if _, err := pki.Init(dir, f.given); err != nil {
				return err
			}
			fmt.Fprintf(a.env.Stdout, "made a certificate authority in %s\nnext: weft pki issue controller NAME --host ADDRESS; then nodes, etcd's members and admins\n", dir)
			return nil
		},
	}
	f.addGiven(cmd)
	return cmd
}

func (a *app) pkiIssueCmd(f *pkiFlags) *cobra.Command {
	var roles []string
	for _, role := range identity.Roles() {
		roles = append(roles, string(role))
	}
	cmd := &cobra.Command{
		Use: "issue ROLE NAME", Short: "Make a certificate and its key", Args: args(cobra.ExactArgs(2)), ValidArgs: roles,
		Long: `Make a folder with a certificate, its key and the authorities to trust. ROLE is controller, node, etcd, admin or user. The name of
a node is that of its agent's configuration. A controller and a member of etcd need a --host for every name and address at which
others find them. A user may do what --role says in each --project; an admin may do everything.`,
		Example: "  weft pki issue controller ctl1 --host 10.30.0.11\n  weft pki issue node net1\n  weft pki issue admin alice --days 90\n" +
			"  weft pki issue user bob --role member --project red --project blue --days 90",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(roles, args[0]) {
				return usagef("role %q is none of %s", args[0], strings.Join(roles, ", "))
			}
			life, err := f.life()
			if err != nil {
				return err
			}
			authority, err := a.openPKI(cmd, f)
			if err != nil {
				return err
			}
			folder, err := authority.Issue(pki.Request{
				Identity: identity.Identity{Role: identity.Role(args[0]), Name: args[1]}, Hosts: f.hosts, Member: f.member, Life: life,
			})
			if err != nil {
				return err
			}
			return a.carry([]string{folder}, nil)
		},
	}
	cmd.Flags().StringSliceVar(&f.hosts, "host", nil, "`name` or address at which it is found; may be given several times")
	complete(cmd, "host", cobra.NoFileCompletions)
	cmd.Flags().StringVar(&f.member.Role, "role", "", "`role` of a user: "+strings.Join(identity.UserRoles(), ", "))
	complete(cmd, "role", cobra.FixedCompletions(identity.UserRoles(), cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringSliceVar(&f.member.Projects, "project", nil, "`project` of a user; may be given several times")
	complete(cmd, "project", cobra.NoFileCompletions)
	f.addDays(cmd, "0: 365")
	return cmd
}

// carry says which folders are to be carried to their hosts.
func (a *app) carry(folders []string, err error) error {
	if err != nil {
		return err
	}
	for _, folder := range folders {
		fmt.Fprintf(a.env.Stdout, "carry %s to its host\n", folder)
	}
	return nil
}

// rotation is a command that renews something.
func (a *app) rotation(f *pkiFlags, do func(*pki.Authority) ([]string, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		authority, err := a.openPKI(cmd, f)
		if err != nil {
			return err
		}
		return a.carry(do(authority))
	}
}

func (a *app) rotateCertificatesCmd(f *pkiFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "certificates", Short: "Issue every certificate anew", Args: args(cobra.NoArgs),
		Long: "Issue every certificate anew, with another key and the same names. Carry the folders to their hosts, in any order.",
		RunE: a.rotation(f, func(authority *pki.Authority) ([]string, error) {
			life, err := f.life()
			if err != nil {
				return nil, err
			}
			return authority.Reissue(life)
		}),
	}
	f.addDays(cmd, "0: as many as before")
	return cmd
}

func (a *app) rotateCACmd(f *pkiFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "Put another authority in the place of the old one", Long: rotateCALong, Args: args(cobra.NoArgs),
		RunE: a.rotation(f, func(authority *pki.Authority) ([]string, error) {
			if f.finish {
				return authority.Finish()
			}
			return authority.Rotate(f.given)
		}),
	}
	f.addGiven(cmd)
	cmd.Flags().BoolVar(&f.finish, "finish", false, "trust the old authority no more")
	cmd.MarkFlagsMutuallyExclusive("finish", "ca-cert")
	return cmd
}

func (a *app) rotatePeerKeyCmd(f *pkiFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "peer-key", Short: "Change the key by which nodes gossip", Long: rotatePeerLong, Args: args(cobra.NoArgs),
		RunE: a.rotation(f, func(authority *pki.Authority) ([]string, error) {
			switch {
			case f.use:
				return authority.RotatePeerKey(pki.UsePeerKey)
			case f.finish:
				return authority.RotatePeerKey(pki.DropPeerKey)
			default:
				return authority.RotatePeerKey(pki.AddPeerKey)
			}
		}),
	}
	cmd.Flags().BoolVar(&f.use, "use", false, "use the new key, which every node accepts by now")
	cmd.Flags().BoolVar(&f.finish, "finish", false, "accept the old key no more, which no node uses any more")
	cmd.MarkFlagsMutuallyExclusive("use", "finish")
	return cmd
}

func (a *app) pkiShowCmd(f *pkiFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "List authorities and certificates", Args: args(cobra.NoArgs),
		Long: "List the authorities that are trusted and the certificates that were issued. It exits with 1 when one has expired.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			authority, err := a.openPKI(cmd, f)
			if err != nil {
				return err
			}
			entries, err := authority.Show()
			if err != nil {
				return err
			}
			return errors.Join(a.printCertificates(entries), expired(entries))
		},
	}
}

// certificate is what programs read of an entry.
type certificate struct {
	Certificate string    `json:"certificate"`
	Issuer      string    `json:"issuer"`
	Issuing     bool      `json:"issuing,omitempty"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Hosts       []string  `json:"hosts,omitempty"`
	Folder      string    `json:"folder"`
}

func (a *app) printCertificates(entries []pki.Entry) error {
	if a.format == render.JSON || a.format == render.YAML {
		out := make([]certificate, 0, len(entries))
		for _, e := range entries {
			out = append(out, certificate{e.Certificate, e.Issuer, e.Issuing, e.NotBefore, e.Until, e.Hosts, e.Folder})
		}
		raw, err := json.Marshal(out)
		if err != nil {
			return err
		}
		return a.printer().Raw(raw)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CERTIFICATE\tEXPIRES\tLEFT\tHOSTS\tREMARK")
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Certificate, e.Until.Format(time.DateOnly), left(e.Until), strings.Join(e.Hosts, ","), remark(e))
	}
	return w.Flush()
}

func left(until time.Time) string {
	d := time.Until(until)
	switch {
	case d <= 0:
		return "none"
	case d < 48*time.Hour:
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}

func remark(e pki.Entry) string {
	l := identity.Lifetime{Certificate: e.Certificate, NotBefore: e.NotBefore, Until: e.Until}
	authority := strings.HasPrefix(e.Certificate, "ca:")
	switch now := time.Now(); {
	case now.After(e.Until):
		return "expired"
	case l.Soon(now):
		return "ends soon"
	case authority && e.Issuing:
		return "issues"
	case authority:
		return "trusted until weft pki rotate ca --finish"
	default:
		return "by " + e.Issuer
	}
}

func expired(entries []pki.Entry) error {
	var errs []error
	for _, e := range entries {
		switch {
		case time.Now().Before(e.Until):
		case e.Issuing:
			errs = append(errs, fmt.Errorf("%s has expired: weft pki rotate ca", e.Certificate))
		default:
			errs = append(errs, fmt.Errorf("%s has expired: weft pki rotate certificates", e.Certificate))
		}
	}
	return errors.Join(errs...)
}
