"""One at a time: what is hooked into a model would change the numbers of whoever runs it meanwhile.

JupyterLab serves widgets in threads beside the one that runs cells. Whoever hooks into a model or runs it in a way that
such hooks would change holds this lock; a thread may take it again.
"""

import threading

ALONE = threading.RLock()
