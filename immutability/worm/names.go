package worm

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// The vault's directory as worm sees it; all names are relative to it. On the right are the flags on a guarded disk.
//
//	.                                                                                      +i
//	vault.json                open identity; its content stands in the ledger's init record
//	keyring                   the wrapped keyring; the newest one stands in the ledger
//	packs/00000001.pack       sealed packs                                                 +a, files +i
//	manifests/<64 hex>.manifest                                                            +a, files +i
//	ledger/                   segments                                                     +a, files +i, the last one +a
//	log/                      checkpoint, cosigned; without a guard they lie in ledger/
//	keeper/log.key            signing key of the checkpoints
//	keeper/clock              state of the clock
//	keeper/lock               who has the vault open for writing: see Lock
//	incoming/                 packs that grow, manifests on their way
//	places                    the list of further directories with packs/ and incoming/ of their own, if there are any
//	moving, moved             in the way of every writer: the vault moves in here, or has moved out
//
// On a guarded disk directories are 0750, but for keeper/, and sealed files 0440: a group may read. Otherwise directories
// are 0700 and files 0600.
const (
	identityFile = "vault.json"
	keyringFile  = "keyring"
	packsDir     = "packs"
	manifestsDir = "manifests"
	ledgerDir    = "ledger"
	keeperDir    = "keeper"
	incomingDir  = "incoming"
	placesFile   = "places" // of immutability/place, which whoever opens the disk has read
	signerFile   = "keeper/log.key"
	clockFile    = "keeper/clock"

	packSuffix     = ".pack"
	manifestSuffix = ".manifest"
	tmpSuffix      = ".tmp"
)

func packFile(n uint32) string     { return fmt.Sprintf("%s/%08d%s", packsDir, n, packSuffix) }
func incomingPack(n uint32) string { return fmt.Sprintf("%s/%08d%s", incomingDir, n, packSuffix) }
func manifestFile(id string) string {
	return manifestsDir + "/" + id + manifestSuffix
}
func incomingManifest(id string) string { return incomingDir + "/" + id + manifestSuffix }

// parsePack reads a pack's number from its file name, without the directory, in its only spelling.
func parsePack(base string) (uint32, bool) {
	digits, ok := strings.CutSuffix(base, packSuffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 || fmt.Sprintf("%08d", n) != digits {
		return 0, false
	}
	return uint32(n), true
}

// parseManifest reads a snapshot's ID from its manifest's file name, without the directory.
func parseManifest(base string) (string, bool) {
	id, ok := strings.CutSuffix(base, manifestSuffix)
	return id, ok && isID(id)
}

// isID says whether s has the form of a snapshot's ID.
func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// sealedPack reads a pack's number from the name that a ledger record gives.
func sealedPack(file string) (uint32, bool) {
	if path.Dir(file) != packsDir {
		return 0, false
	}
	return parsePack(path.Base(file))
}

// sealedManifest reads a snapshot's ID from the name that a ledger record gives.
func sealedManifest(file string) (string, bool) {
	if path.Dir(file) != manifestsDir {
		return "", false
	}
	return parseManifest(path.Base(file))
}
