# %% [markdown]
# # Work for this machine
#
# It runs the stages @STAGES@ of a project of `pipeline` on what is in the bundle `@FILE@`, and writes `@FILE@.done`, which
# goes back.
#
# 1. Choose a machine with a GPU, if the stages use one.
# 2. Upload `@FILE@`: to storage that outlives the session, such as a mounted drive, if there is any.
# 3. Run all cells. If the session ends early, run them all again. Finished images and epochs are not done again, as long
#    as the folder `@FILE@.work` beside the bundle is still there.

# %%
# Where the bundle lies. Results so far are kept beside it, or in this folder when nothing can be written there.
import glob, os

FILE = @FILE_LITERAL@
PLACES = [".", "/content", "/content/drive/MyDrive", "/kaggle/working", "/kaggle/input/*", "/workspace"]
found = [path for place in PLACES for path in glob.glob(os.path.join(place, glob.escape(FILE)))]
if not found:
    raise FileNotFoundError(f"{FILE} is in none of {PLACES}: upload it, or add its folder to PLACES")
BUNDLE = os.path.abspath(found[0])
HOME = os.path.dirname(BUNDLE) if os.access(os.path.dirname(BUNDLE), os.W_OK) else os.getcwd()
WORK = os.path.join(HOME, FILE + ".work")
OUT = os.path.join(HOME, FILE + ".done")
print("bundle ", BUNDLE, "\nwork   ", WORK, "\nresults", OUT)

# %%
# The program: it needs @BUILT_FOR@ and nothing else. A file `pipeline` beside the bundle is taken instead.
import platform, shutil, subprocess, tarfile, tempfile

PROGRAM = os.path.join(tempfile.mkdtemp(prefix="pipeline-"), "pipeline")
OWN = os.path.join(HOME, "pipeline")
ADVICE = (
    f"This machine is {platform.system()} on {platform.machine()}, {' '.join(platform.libc_ver())}. "
    "The program in the bundle is for @BUILT_FOR@. Choose such a machine; or build the same version of `pipeline` here "
    f"(`cargo install --path pipeline/cli`), put it at {OWN} and run this cell again."
)
if os.path.isfile(OWN):
    shutil.copyfile(OWN, PROGRAM)
else:
    with tarfile.open(BUNDLE) as bundle:
        if "bin/pipeline" not in bundle.getnames():
            raise RuntimeError("There is no program in the bundle. " + ADVICE)
        with bundle.extractfile("bin/pipeline") as source, open(PROGRAM, "wb") as target:
            shutil.copyfileobj(source, target)
os.chmod(PROGRAM, 0o755)
try:
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.strip()
except (OSError, subprocess.CalledProcessError) as error:
    raise RuntimeError(f"The program does not start here ({getattr(error, 'stderr', None) or error}). " + ADVICE) from error
print(said)

# %%
# The work. It can be stopped at any time; run this cell again to go on.
command = [PROGRAM, "stage", "exec", "--bundle", BUNDLE, "--work", WORK, "--out", OUT]
with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
    for line in run.stdout:
        print(line, end="")
if run.returncode not in (0, 3):
    raise RuntimeError(f"It ended with exit code {run.returncode}; the lines above say why. Finished work is kept in {WORK}.")

# %%
# The results go back to the project.
print(f"Download {OUT} and type in the project's folder:")
print(@BACK@)
try:
    from google.colab import files
except ImportError:
    pass
else:
    files.download(OUT)
