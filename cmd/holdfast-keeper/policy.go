package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// settings reads the keeper's own file. One that is not there says nothing: what is in force is the ledger's.
func (k *house) settings() (policy.Settings, error) {
	if k.o.policy == "" {
		return policy.Settings{}, nil
	}
	s, err := policy.Load(k.o.policy)
	if errors.Is(err, fs.ErrNotExist) {
		k.log.Info("there is no file of settings; the ledger's policy stays", "file", k.o.policy)
		return policy.Settings{}, nil
	}
	return s, err
}

// adopt puts what is tighter into force, with a record, or takes back a change that is fresh, and says what is not followed.
// The witnesses are those of the file: they lengthen nothing and shorten nothing by themselves.
func (k *house) adopt(ctx context.Context, store *worm.Store) error {
	said, err := k.settings()
	if err != nil {
		return err
	}
	witnesses, err := worm.ParseWitnesses(said.Witnesses)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if err := store.TrustWitnesses(witnesses); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	people, err := worm.ParsePeople(said.People)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if behind := store.Ledger().Behind(); behind != nil {
		k.log.Error("nothing is written until a person begins another origin (holdfast-keeper origin)", "why", behind.Error())
		return nil
	}
	changed, refused, err := store.Adopt(ctx, said.Policy, "holdfast-keeper --policy "+k.o.policy)
	if err == nil {
		err = k.name(ctx, store, people)
	}
	if durable.IsNoSpace(err) {
		// It alone can make room, and what is in force stays.
		k.log.Error("the settings are not taken, because the disk is full; make room (holdfast prune), then SIGHUP", "error", err.Error())
		return nil
	}
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	for _, r := range refused {
		k.log.Warn("looser than what is in force, and not followed", "what", r.String())
	}
	if changed {
		k.log.Info("the settings changed the policy in force", "mode", store.Policy().Mode, "default_s", store.Policy().DefaultSeconds,
			"min_s", store.Policy().MinSeconds, "max_s", store.Policy().MaxSeconds, "keep", store.Policy().Keep.String())
	}
	return nil
}

// name puts the people of the settings into the ledger, where nobody is in force yet, and says when they will be.
func (k *house) name(ctx context.Context, store *worm.Store, people quorum.People) error {
	changed, refused, err := store.AdoptPeople(ctx, people, "holdfast-keeper --policy "+k.o.policy)
	switch {
	case err != nil:
		return err
	case refused != "":
		k.log.Warn("the people of the settings are not followed", "why", refused)
	case changed:
		in, err := store.People()
		if err != nil {
			return err
		}
		k.log.Info("the settings name the people whose signatures count; until they do others may take their place", "people", len(people.People),
			"threshold", people.Threshold, "from", in.From.UTC().Format(time.RFC3339))
	}
	return nil
}
