# Commands, upcasters and counts of events come through a dump: a retry that arrives after the restore is one, its token can be waited for, and handlers are
# those of the new database.  If this fails, a move to another server does things twice, or has readers wait for transactions that never were.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('commands_restored');

# Transaction ids far beyond those of a young cluster.
$node->stop;
command_ok([ 'pg_resetwal', '--epoch=1', '-D', $node->data_dir ], 'ids go past 32 bits');
$node->start;
$node->safe_psql('postgres', q{
	CREATE SCHEMA shop;
	CREATE TABLE shop.done (id integer);
	CREATE FUNCTION shop.handle(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$
		INSERT INTO shop.done VALUES ((payload ->> 'id')::integer);
		SELECT to_jsonb(cqrs.emit('Done', 'thing', payload ->> 'id')) $$;
	CREATE FUNCTION shop.newer(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT payload || '{"newer": true}'$$;
	SELECT cqrs.create_command('do', 'shop.handle(jsonb)'), cqrs.create_upcaster('Done', 1, 'shop.newer(jsonb)');
	SELECT cqrs.create_projection('shop.things', 'SELECT id, count(*) AS times FROM shop.done GROUP BY id');
	SELECT cqrs.wait_until_serving('shop.things');
	SELECT cqrs.execute('do', '{"id": 1}', 'first'), cqrs.execute('do', '{"id": 2}', 'second');
	SELECT cqrs.execute('do', '{"id": 2}', 'second');});
my $before = $node->safe_psql('postgres', 'SELECT id, command, result, duration, payload_hash, replayed FROM cqrs.commands ORDER BY id');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

$node->run_log([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ]);
my $other = new_server('commands_restored_into');
$other->safe_psql('postgres', 'DROP EXTENSION cqrs');
$other->psql('postgres', undef, extra_params => [ '-v', 'ON_ERROR_STOP=1', '-f', $dump ]);
is($other->safe_psql('postgres', 'SELECT id, command, result, duration, payload_hash, replayed FROM cqrs.commands ORDER BY id'), $before, 'what was executed is known');
is($other->safe_psql('postgres', 'SELECT count(token) FROM cqrs.commands'), 0, 'but no token of another cluster');
is($other->safe_psql('postgres', q{SELECT command, handler FROM cqrs.command_handlers}), 'do|shop.handle(jsonb)', 'handlers are there');
is($other->safe_psql('postgres', q{SELECT type, count, schema_version FROM cqrs.event_types}), 'Done|2|2', 'so are types of events, and their number');
is($other->safe_psql('postgres', q{SELECT cqrs.upcast('Done', '{}')}), '{"newer": true}', 'and upcasters');
is($other->safe_psql('postgres', q{
	SELECT cqrs.execute('do', '{"id": 1}', 'first') AS answer \gset
	SELECT :'answer'::jsonb - 'token', cqrs.wait_for('shop.things', (:'answer'::jsonb ->> 'token')::xid8, '30 s');}),
	'{"result": 1, "replayed": true}|t', 'a retry is one, and its token can be waited for');
is($other->safe_psql('postgres', q{
	SELECT cqrs.execute('do', '{"id": 3}', 'third') AS answer \gset
	SELECT :'answer'::jsonb - 'token', cqrs.wait_for('shop.things', (:'answer'::jsonb ->> 'token')::xid8, '30 s');}),
	'{"result": 1, "replayed": false}|t', 'what is new is done');
is($other->safe_psql('postgres', 'SELECT id, count(*) FROM shop.done GROUP BY id ORDER BY id'), "1|1\n2|1\n3|1", 'all are done once');
is($other->safe_psql('postgres', q{SELECT type, count FROM cqrs.event_types}), 'Done|3', 'events are counted on');
$node->stop;
$other->stop;
done_testing();
