/*
 * base/position.c
 *		Places in texts that users give as arguments.
 */
#include "postgres.h"

#include "base/position.h"
#include "parser/parser.h"

/*
 * cqrs_position_move is the error context in which the server reads the user's text: a place it names is one in that text.
 */
void
cqrs_position_move(void *text)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery(text);
}

/*
 * cqrs_position_parse has the server parse a user's text.
 */
List *
cqrs_position_parse(const char *text)
{
	ErrorContextCallback context = {.previous = error_context_stack, .callback = cqrs_position_move, .arg = (void *) text};
	List	   *statements;

	error_context_stack = &context;
	statements = raw_parser(text, RAW_PARSE_DEFAULT);
	error_context_stack = context.previous;
	return statements;
}
