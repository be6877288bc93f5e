package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/controller/backup"
	"github.com/weft-sdn/weft/controller/config"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/store"
)

const backupLong = `Save what is stored in etcd to a file, and restore it. These commands speak to etcd itself, not to controllers: they are
for whoever runs the controllers. etcd is found by --etcd, or by the configuration file of a controller, whose
certificate is then used, or is at 127.0.0.1:2379.

A backup holds all objects, allocations, placements and settings at one moment. It does not hold what nodes report, which
they report again, nor remembered results of calls. It can be restored into any etcd.`

const restoreLong = `Make etcd hold what the file holds. Stop all controllers first: the command refuses to work while one is registered, and
controllers refuse to start until it has ended. Agents may run: they keep what they have until the store is whole again
and then change what differs. For the embedded etcd of a controller, stop the controller, run "weft-controller store"
with its configuration and restore into that.

An etcd that holds anything is refused without --replace, which deletes what the backup does not have. A restore that was
interrupted is taken up by the same command.`

// etcdFlags say where etcd is.
type etcdFlags struct {
	endpoints []string
	config    string
	self      identity.Identity // who asks, when with calls; nobody where TLS is off
}

func (f *etcdFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.endpoints, "etcd", nil, "etcd's `URLs`, comma separated (environment: WEFT_ETCD)")
	cmd.Flags().StringVar(&f.config, "config", "", "configuration `file` of a controller that uses that etcd")
	complete(cmd, "etcd", cobra.NoFileCompletions)
}

// resolve decides where etcd is and who asks it: flags over environment over defaults.
func (f *etcdFlags) resolve(a *app) (endpoints []string, credential *identity.Credential, err error) {
	cfg := config.Default()
	cfg.Insecure = a.insecure
	env := a.env.Getenv("WEFT_ETCD")
	switch {
	case len(f.endpoints) > 0:
		cfg.Etcd = f.endpoints
	case f.config != "":
		if err := cfg.File(f.config); err != nil {
			return nil, nil, usageError{err}
		}
		if a.tlsDir == "" {
			a.tlsDir = cfg.TLSDir
		}
		a.insecure = cfg.Insecure
	case env != "":
		config.SetList(&cfg.Etcd, env)
	}
	if endpoints = cfg.Etcd; len(endpoints) == 0 {
		endpoints = cfg.EtcdURLs()
	}
	credential, err = a.credential()
	return endpoints, credential, err
}

// with calls do with the store.
func (f *etcdFlags) with(ctx context.Context, a *app, do func(context.Context, *store.Store) error) error {
	endpoints, credential, err := f.resolve(a)
	if err != nil {
		return err
	}
	if credential != nil {
		f.self = credential.Self()
	}
	client, err := store.Dial(endpoints, credential)
	if err != nil {
		return usageError{err}
	}
	defer client.Close() //nolint:errcheck // nothing is pending
	if err := do(ctx, store.New(client)); err != nil {
		return fmt.Errorf("etcd at %v: %w", endpoints, err)
	}
	return nil
}

func (a *app) backupCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "backup", Short: "Save and restore what is stored", Long: backupLong}
	cmd.AddCommand(a.backupSaveCmd(), a.backupRestoreCmd())
	group(cmd)
	return cmd
}

func (a *app) backupSaveCmd() *cobra.Command {
	var at etcdFlags
	cmd := &cobra.Command{
		Use: "save FILE", Short: "Save what is stored to a file", Args: args(cobra.ExactArgs(1)),
		Example: "  weft backup save /var/backups/weft-$(date +%F).json --etcd https://10.0.0.1:2379",
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.with(cmd.Context(), a, func(ctx context.Context, s *store.Store) error { return a.saveBackup(ctx, s, args[0]) })
		},
	}
	at.add(cmd)
	return cmd
}

// saveBackup writes the file under another name first: what has the name is whole.
func (a *app) saveBackup(ctx context.Context, s *store.Store, name string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return usageError{err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	b, err := backup.Save(ctx, s, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	fmt.Fprintf(a.env.Stdout, "saved %d keys at revision %d, schema version %d, to %s\n", len(b.Entries), b.Revision, b.Schema, name)
	return nil
}

func (a *app) backupRestoreCmd() *cobra.Command {
	var at etcdFlags
	var options backup.Options
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Make etcd hold what a file holds", Long: restoreLong, Args: args(cobra.ExactArgs(1)),
		Example: "  weft backup restore /var/backups/weft-2026-11-20.json --etcd https://10.0.0.1:2379 --replace",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return usageError{err}
			}
			defer f.Close()
			b, err := backup.Parse(f)
			if err != nil {
				return usagef("%s: %w", args[0], err)
			}
			options.Now = time.Now()
			return at.with(cmd.Context(), a, func(ctx context.Context, s *store.Store) error {
				did, err := backup.Restore(ctx, s, b, options)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.env.Stdout, "restored the backup of %s: %d keys written, %d deleted, %d as they were; start the controllers\n",
					b.Time.Format(time.RFC3339), did.Written, did.Deleted, did.Unchanged)
				return nil
			})
		},
	}
	at.add(cmd)
	cmd.Flags().BoolVar(&options.Replace, "replace", false, "the store may hold something, which is replaced")
	return cmd
}
