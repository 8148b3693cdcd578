# A damaged chunk stops the read models that need it, each with an error that names it, and nothing else: others go on, the worker lives, what else is in the outbox
# can be read, health can be asked.  If this fails, one bad page takes down every read model, or changes are passed over in silence.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use Test::More;

my $node = new_server('damage', 'cqrs.max_workers = 1', 'cqrs.retry_initial = 50ms', 'cqrs.retry_max = 200ms');
my $hurt = 'SELECT shop, count(*) AS n, sum(amount) AS amount FROM sale GROUP BY shop';
my $well = 'SELECT id, name FROM shop';

# The number of the chunk that holds what was captured last of a table.
sub last_chunk
{
	my ($table) = @_;

	return $node->safe_psql('postgres', "SELECT max(position) >> 16 FROM cqrs.outbox WHERE source = '$table'::regclass");
}

# Changes a chunk's row by hand.
sub damage
{
	my ($chunk, $how) = @_;

	$node->safe_psql('postgres', qq{
		SELECT format('UPDATE %s SET $how WHERE number = $chunk', relation) FROM cqrs_internal.segment \\gexec});
	return;
}

# One answer.
sub ask { return $node->safe_psql('postgres', $_[0]) }

$node->safe_psql('postgres', qq{
	CREATE TABLE shop (id integer PRIMARY KEY, name text);
	CREATE TABLE sale (id integer PRIMARY KEY, shop integer, amount integer);
	INSERT INTO shop SELECT i, 'shop ' || i FROM generate_series(1, 5) i;
	SELECT cqrs.create_projection('sales', '$hurt');
	SELECT cqrs.create_projection('shops', '$well')});
ok(caught_up($node, $_), "$_ serves") foreach qw(sales shops);

# In every place a chunk can be damaged in: head, check sum, lengths, list of sources.
my %places = (
	'the head' => 'body = set_byte(body, 0, 77)',
	'the check sum' => 'body = set_byte(body, 2, get_byte(body, 2) # 1)',
	'what it sums up' => 'body = set_byte(body, 12, get_byte(body, 12) # 255)',
	'its length' => 'body = substring(body, 1, octet_length(body) - 3)',
	'its number of changes' => 'changes = changes + 1',
	'its list of sources' => q{sources = ''{{1,2},{3,4}}''});
my $id = 0;
foreach my $place (sort keys %places)
{
	my $pid = worker_pid($node);
	my $mixed = $id % 2 == 0 ? q{UPDATE shop SET name = name || '+' WHERE id = 1;} : '';
	my $everybody = $mixed || $place eq 'its list of sources';
	my ($chunk, $total);

	ask(q{SELECT cqrs.pause(v) FROM (VALUES ('sales'::regclass), ('shops')) AS p (v)});
	ask("BEGIN; INSERT INTO sale SELECT i, i % 3, i FROM generate_series($id + 1, $id + 10) i; $mixed COMMIT");
	$chunk = last_chunk('sale');
	$total = ask('SELECT count(*) FROM cqrs.outbox');
	damage($chunk, $places{$place});
	ask("UPDATE shop SET name = 'after $id' WHERE id = 2");
	ask(q{SELECT cqrs.resume(v) FROM (VALUES ('sales'::regclass), ('shops')) AS p (v)});
	until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'sales'::regclass AND state = 'serving'}, 20);
	like(ask(q{SELECT error FROM cqrs.versions WHERE projection = 'sales'::regclass AND state = 'serving'}), qr/outbox chunk $chunk is damaged/, "damage to $place: who needs it fails and names it");
	if ($everybody)
	{
		until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'shops'::regclass AND state = 'serving'}, 20);
		like(ask(q{SELECT error FROM cqrs.versions WHERE projection = 'shops'::regclass AND state = 'serving'}), qr/outbox chunk $chunk is damaged/, 'so does another that may need it');
	}
	else
	{
		ok(caught_up($node, 'shops'), 'another goes on');
		is_equal($node, 'shops', $well, 'and is right');
	}
	is(ask(q{SELECT string_agg(health, ' ' ORDER BY projection::text) FROM cqrs.lag}), $everybody ? 'failing failing' : 'failing idle', 'health tells');
	cmp_ok(ask(q{SELECT pending FROM cqrs.freshness('sales')}), '>=', 10, 'what waits is counted');
	isnt($node->psql('postgres', q{SELECT cqrs.drain('sales')}, stderr => \my $errors), 0, 'draining fails');
	like($errors, qr/outbox chunk $chunk is damaged.*\n.*DETAIL/s, 'with an error that names the chunk');
	is(ask(q{SELECT count(*), min(position) >> 16, min(metadata ->> 'error') FROM cqrs.outbox WHERE kind = 'damaged'}), "1|$chunk|outbox chunk $chunk is damaged",
		'the outbox shows what cannot be read');
	is(ask(q{SELECT count(*) FROM cqrs.outbox WHERE new_row ->> 'name' IS NOT NULL OR source = 'shop'::regclass AND position >> 16 > } . $chunk) > 0, 1, 'and what comes after');
	is(worker_pid($node), $pid, 'the worker lives');

	# Filled anew, they do without.
	ask("SELECT cqrs.drop_projection(v) FROM (VALUES ('sales'::regclass), ('shops')) AS p (v)");
	ask("DO \$\$DECLARE s text; BEGIN FOR s IN SELECT relation FROM cqrs_internal.segment LOOP EXECUTE format('DELETE FROM %s WHERE number = $chunk', s); END LOOP; END\$\$");
	ask("SELECT cqrs.create_projection('sales', '$hurt'); SELECT cqrs.create_projection('shops', '$well')");
	ok(caught_up($node, $_), "$_ serves again") foreach qw(sales shops);
	is_equal($node, 'sales', $hurt, 'and is right');
	$id += 101;
}

# A crash may leave an empty page where the index of a segment was about to grow.  Writers, who look there first, are not to stumble over it.
my $index = ask(q{SELECT pg_relation_filepath(relation || '_xid') FROM cqrs_internal.segment WHERE relation IS NOT NULL AND closed_at IS NULL});
$node->stop;
open(my $file, '>>', $node->data_dir . "/$index") or die "cannot open $index: $!";
print $file "\0" x 8192;
close($file) or die "cannot write $index: $!";
$node->start;
foreach my $turn (1 .. 3)
{
	is($node->psql('postgres', "INSERT INTO sale VALUES (-$turn, 1, 1)"), 0, "an empty page at the end of an index stops no writer: $turn");
}
ok(caught_up($node, 'sales'), 'nor a reader');
is_equal($node, 'sales', $hurt, 'who finds all');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC:|TRAP:|terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
