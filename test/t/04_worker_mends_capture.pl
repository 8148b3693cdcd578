# Capture triggers are disabled, made to fire as others do, or dropped, and commands go on.  What was written meanwhile is in no outbox.  Every version that reads the table
# must notice, also one that was not looked at first, evaluate its query once, and be maintained by windows again; if one of them trusted its next window,
# what it missed would be missing for ever.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('mends', 'cqrs.log_min_duration = 0');
my %queries = (
	page => 'SELECT t.id, upper(t.name) AS name, k.label FROM thing t LEFT JOIN kind k ON k.id = t.kind',
	names => 'SELECT name, count(*) AS times FROM thing GROUP BY name',
	labels => 'SELECT id, label FROM kind');

$node->safe_psql('postgres', q{CREATE TABLE kind (id integer PRIMARY KEY, label text);
	CREATE TABLE thing (id integer PRIMARY KEY, name text, kind integer);
	INSERT INTO kind SELECT i, 'kind ' || i FROM generate_series(1, 5) i;
	INSERT INTO thing SELECT i, 'thing ' || i % 50, i % 7 FROM generate_series(1, 1000) i});
$node->safe_psql('postgres', "SELECT cqrs.create_projection('$_', '$queries{$_}')") foreach sort keys %queries;

# All projections are right, and the triggers are what they were.
sub all_well
{
	my ($when) = @_;

	foreach my $name (sort keys %queries)
	{
		ok(caught_up($node, $name), "$name catches up $when");
		is_equal($node, $name, $queries{$name}, "$name is right $when");
	}
	return ok(
		defined until_true($node, q{SELECT count(*) = 4 FROM pg_trigger WHERE tgname LIKE 'cqrs\_capture%' AND tgenabled = 'A'}, 10),
		"the triggers fire always $when");
}

# The next changes come by a window, and not by evaluating all again.
sub by_windows
{
	my ($when) = @_;
	my $offset = -s $node->logfile;

	$node->safe_psql('postgres', q{UPDATE thing SET name = name || '!' WHERE id % 100 = 1; UPDATE kind SET label = label || '!' WHERE id = 2});
	all_well($when);
	return unlike(substr(slurp_file($node->logfile), $offset), qr/full evaluation/, "nothing is evaluated anew $when");
}

all_well('at first');
by_windows('at first');

my $id = $node->safe_psql('postgres', q{SELECT id FROM cqrs_internal.source WHERE relation = 'thing'::regclass});
my %harm = (
	'ALTER TABLE thing DISABLE TRIGGER ALL' => 'ALTER TABLE thing ENABLE TRIGGER ALL',
	'ALTER TABLE thing DISABLE TRIGGER USER' => 'SELECT 1',
	"ALTER TABLE thing ENABLE TRIGGER cqrs_capture_$id; SET session_replication_role = replica" => 'RESET session_replication_role',
	"DROP TRIGGER cqrs_capture_$id ON thing" => 'SELECT 1',
	"DROP TRIGGER cqrs_capture_truncate_$id ON thing" => 'SELECT 1');

foreach my $harm (sort keys %harm)
{
	# In one transaction, so that nobody mends before something was missed.
	$node->safe_psql('postgres', qq{BEGIN; $harm; UPDATE thing SET name = 'missed ' || id % 10 WHERE id % 3 = 0;
		DELETE FROM thing WHERE id = (SELECT max(id) FROM thing); $harm{$harm}; COMMIT});
	all_well("after $harm");
	by_windows("after $harm was mended");
}

# A pause in between: what is not looked at now must be distrusted all the same.
$node->safe_psql('postgres', q{SELECT cqrs.pause('names')});
$node->safe_psql('postgres', q{BEGIN; ALTER TABLE thing DISABLE TRIGGER ALL; UPDATE thing SET name = 'unseen' WHERE id < 100; COMMIT});
ok(caught_up($node, 'page'), 'one version mends the triggers');
is($node->safe_psql('postgres', q{SELECT v.status FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
	WHERE p.view = 'names'::regclass}), 'stale', 'the paused one is stale then');
$node->safe_psql('postgres', q{SELECT cqrs.resume('names')});
all_well('after a pause');

# A writer that stays open keeps the triggers from being mended, but nobody else from going on.
my $writer = $node->background_psql('postgres');
$writer->query_safe(q{BEGIN; UPDATE thing SET name = 'open' WHERE id = 2});
$node->safe_psql('postgres', q{ALTER TABLE kind DISABLE TRIGGER ALL; UPDATE kind SET label = 'missed'});
$writer->query_safe(q{UPDATE kind SET label = 'open' WHERE id = 1});
$node->safe_psql('postgres', q{UPDATE thing SET name = 'by the way' WHERE id = 3});
ok(caught_up($node, 'names'), 'others go on while a writer keeps triggers from being mended');
is($node->safe_psql('postgres', q{SELECT times FROM names WHERE name = 'by the way'}), 1, 'with what was written meanwhile');
is($node->psql('postgres', q{SET lock_timeout = '2s'; UPDATE kind SET label = 'queued' WHERE id = 4}), 0, 'nor do writers queue for long');
$writer->query_safe('COMMIT');
$writer->quit;
all_well('after the writer ended');
by_windows('in the end');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.history WHERE event = 'stale' AND projection::text = 'page'}) > 0, 1, 'history tells');

# A view that a query reads begins to read a column that nobody has captured until now; a writer that stays open keeps that from being mended for a while.
$node->safe_psql('postgres', q{ALTER TABLE kind ADD COLUMN rank integer DEFAULT 1; CREATE VIEW shown AS SELECT id, label FROM kind});
$queries{shorts} = 'SELECT id, label FROM shown';
$node->safe_psql('postgres', "SELECT cqrs.create_projection('shorts', '$queries{shorts}')");
all_well('before the view is replaced');
$writer = $node->background_psql('postgres');
$writer->query_safe(q{BEGIN; UPDATE kind SET rank = 2 WHERE id = 1});
$node->safe_psql('postgres', q{CREATE OR REPLACE VIEW shown AS SELECT id, label || rank AS label FROM kind});
$node->safe_psql('postgres', q{UPDATE kind SET rank = 3 WHERE id = 2});
$writer->query_safe(q{UPDATE kind SET rank = 4 WHERE id = 3});
ok(caught_up($node, 'page'), 'others go on');
$writer->query_safe('COMMIT');
$writer->quit;
ok(defined until_true($node, q{SELECT 'rank' = ANY (watched) FROM cqrs.sources WHERE source = 'kind'::regclass}, 10), 'the column is captured then');
ok(defined until_true($node, q{SELECT status = 'running' FROM cqrs.versions WHERE projection = 'shorts'::regclass}, 10), 'and the read model trusts its window');
all_well('after the view was replaced');
$node->safe_psql('postgres', q{UPDATE kind SET rank = 5 WHERE id = 4});
all_well('after the column that it reads was changed');
$node->stop;
done_testing();
