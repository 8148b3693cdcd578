/*
 * base/position.c
 *		Places in texts that users give as arguments.
 */
#include "postgres.h"

#include "base/position.h"

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
