package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/keys"
)

// root is the user and the role without which etcd does not enforce anything. No certificate has that name.
const root = "root"

// Grant makes a user of an identity: a node's may use its own keys from then on, and routers' once the leader has seen it; a
// controller's and an admin's may do everything. Granting again repairs what has been changed.
func Grant(ctx context.Context, client *clientv3.Client, id identity.Identity) error {
	user := id.String()
	role := root
	switch id.Role {
	case identity.Controller, identity.Admin:
	case identity.Node:
		role = user
	case identity.Etcd:
		return fmt.Errorf("%s: members of etcd are no users of it", id)
	default:
		return fmt.Errorf("%s: %w", id, id.Check())
	}
	steps := []func() error{
		func() error { _, err := client.RoleAdd(ctx, role); return known(err, rpctypes.ErrRoleAlreadyExist) },
		func() error {
			if role == root {
				return nil
			}
			have, err := permissions(ctx, client, role)
			if err != nil {
				return err
			}
			// What it has of routers stays: the leader knows better.
			return grant(ctx, client, role, missing(have, Node(id.Name, Placed{})))
		},
		func() error {
			_, err := client.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true})
			return known(err, rpctypes.ErrUserAlreadyExist)
		},
		func() error { _, err := client.UserGrantRole(ctx, user, role); return err },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("etcd user %s: %w", user, err)
		}
	}
	return nil
}

// Revoke takes everything from an identity at once: whatever it asks of etcd from then on is refused. Watches that are open
// go on until their connection ends. An identity that is no user is success.
func Revoke(ctx context.Context, client *clientv3.Client, id identity.Identity) error {
	user := id.String()
	_, err := client.UserDelete(ctx, user)
	if err := known(err, rpctypes.ErrUserNotFound); err != nil {
		return fmt.Errorf("etcd user %s: %w", user, err)
	}
	if id.Role != identity.Node {
		return nil
	}
	_, err = client.RoleDelete(ctx, user)
	if err := known(err, rpctypes.ErrRoleNotFound); err != nil {
		return fmt.Errorf("etcd role %s: %w", user, err)
	}
	return nil
}

// Users are the identities that etcd knows; others' users are left out.
func Users(ctx context.Context, client *clientv3.Client) ([]identity.Identity, error) {
	got, err := client.UserList(ctx)
	if err != nil {
		return nil, fmt.Errorf("etcd's users: %w", err)
	}
	var out []identity.Identity
	for _, name := range got.Users {
		if id, err := identity.Parse(name); err == nil {
			out = append(out, id)
		}
	}
	return out, nil
}

// ErrSilent tells that this etcd does not say: 3.4 doesn't.
var ErrSilent = errors.New("this etcd does not say whether it is enabled")

// Enabled reports whether etcd enforces it.
func Enabled(ctx context.Context, client *clientv3.Client) (bool, error) {
	got, err := client.AuthStatus(ctx)
	if status.Code(err) == codes.Unimplemented {
		return false, ErrSilent
	}
	if err != nil {
		return false, fmt.Errorf("etcd's access control: %w", err)
	}
	return got.Enabled, nil
}

// ErrLockedOut tells that somebody who works now would be refused.
var ErrLockedOut = errors.New("would be locked out")

// Enable has etcd enforce it. ErrLockedOut, and nothing is changed, when the caller or a node that is registered is no user,
// or no controller is.
func Enable(ctx context.Context, client *clientv3.Client, caller identity.Identity) error {
	users, err := Users(ctx, client)
	if err != nil {
		return err
	}
	nodes, err := client.Get(ctx, keys.All(keys.FamilyAgent), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("registered nodes: %w", err)
	}
	var out []string
	if !slices.Contains(users, caller) {
		out = append(out, caller.String())
	}
	if !slices.ContainsFunc(users, func(id identity.Identity) bool { return id.Role == identity.Controller }) {
		out = append(out, "every controller")
	}
	for _, kv := range nodes.Kvs {
		id := identity.Identity{Role: identity.Node, Name: strings.TrimPrefix(string(kv.Key), keys.All(keys.FamilyAgent))}
		if !slices.Contains(users, id) {
			out = append(out, id.String())
		}
	}
	if len(out) > 0 {
		return fmt.Errorf("%s: %w; weft access grant ROLE NAME", strings.Join(out, ", "), ErrLockedOut)
	}
	_, err = client.RoleAdd(ctx, root)
	if err = known(err, rpctypes.ErrRoleAlreadyExist); err == nil {
		_, err = client.UserAddWithOptions(ctx, root, "", &clientv3.UserAddOptions{NoPassword: true})
		err = known(err, rpctypes.ErrUserAlreadyExist)
	}
	if err == nil {
		_, err = client.UserGrantRole(ctx, root, root)
	}
	if err == nil {
		_, err = client.AuthEnable(ctx)
	}
	if err != nil {
		return fmt.Errorf("enable etcd's access control: %w", err)
	}
	return nil
}

// Disable has etcd let everybody do everything.
func Disable(ctx context.Context, client *clientv3.Client) error {
	if _, err := client.AuthDisable(ctx); err != nil {
		return fmt.Errorf("disable etcd's access control: %w", err)
	}
	return nil
}

// known is nil for an error that says that there is nothing to do.
func known(err, done error) error {
	if errors.Is(err, done) {
		return nil
	}
	return err
}

// permissions are those that a role has.
func permissions(ctx context.Context, client *clientv3.Client, role string) ([]Permission, error) {
	got, err := client.RoleGet(ctx, role)
	if err != nil {
		return nil, fmt.Errorf("role %s: %w", role, err)
	}
	var out []Permission
	for _, p := range got.Perm {
		out = append(out, Permission{Key: string(p.Key), End: string(p.RangeEnd), Write: p.PermType == clientv3.PermReadWrite})
	}
	return out, nil
}

// missing are those of want that are not in have.
func missing(have, want []Permission) []Permission {
	there := make(map[Permission]bool, len(have))
	for _, p := range have {
		there[p] = true
	}
	return slices.DeleteFunc(slices.Clone(want), func(p Permission) bool { return there[p] })
}

// unwanted are those of have whose range want does not have.
func unwanted(have, want []Permission) []Permission {
	there := make(map[[2]string]bool, len(want))
	for _, p := range want {
		there[[2]string{p.Key, p.End}] = true
	}
	return slices.DeleteFunc(slices.Clone(have), func(p Permission) bool { return there[[2]string{p.Key, p.End}] })
}

func grant(ctx context.Context, client *clientv3.Client, role string, some []Permission) error {
	for _, p := range some {
		kind := clientv3.PermissionType(clientv3.PermRead)
		if p.Write {
			kind = clientv3.PermissionType(clientv3.PermReadWrite)
		}
		if _, err := client.RoleGrantPermission(ctx, role, p.Key, p.End, kind); err != nil {
			return fmt.Errorf("role %s: grant %s: %w", role, p.Key, err)
		}
	}
	return nil
}

func revoke(ctx context.Context, client *clientv3.Client, role string, some []Permission) error {
	for _, p := range some {
		_, err := client.RoleRevokePermission(ctx, role, p.Key, p.End)
		if err := known(err, rpctypes.ErrPermissionNotGranted); err != nil {
			return fmt.Errorf("role %s: revoke %s: %w", role, p.Key, err)
		}
	}
	return nil
}
